"""The CUDA kernels on a GPU, against Pillow and NumPy; streams, memory and graphs as the runtime uses them."""

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from tests.deploy.kernel_cases import FILL, candidates, letterbox_cases, reference


@pytest.fixture(scope="module")
def kernels(gpu, tmp_path_factory):
    """The kernels, compiled by nvcc for this GPU."""
    from effedge.deploy.runtime.tensorrt.detector_steps import load_kernels

    engine = tmp_path_factory.mktemp("kernels") / "engine.plan"
    engine.write_bytes(b"")
    with gpu.current():
        return load_kernels(gpu, engine)


@pytest.fixture
def current(gpu):
    with gpu.current():
        yield gpu


def letterbox_on_gpu(gpu, kernels, image, size, resized):
    from effedge.deploy.runtime.tensorrt.detector_steps import LetterboxTarget, enqueue_letterbox
    from tests.gpu.on_gpu import upload_image

    stream = gpu.stream()
    _buffers, packed_image = upload_image(gpu, stream, image, resized)
    horizontal = gpu.memory(3 * packed_image.height * packed_image.new_width)
    out = gpu.result_buffer(3 * size[0] * size[1])
    target = LetterboxTarget(out.address, *size, FILL[0] | FILL[1] << 8 | FILL[2] << 16)
    enqueue_letterbox(kernels, stream, 0, packed_image, int(horizontal), target)
    out.download(3 * size[0] * size[1], stream)
    stream.synchronize()
    return out.view(np.uint8, (*size, 3)).copy()


@pytest.mark.parametrize("seed", range(4))
def test_the_letterbox_kernels_give_pillows_pixels_to_the_last_bit(current, kernels, seed):
    for image, size, expected in letterbox_cases(seed, 120):
        np.testing.assert_array_equal(
            letterbox_on_gpu(current, kernels, image, size, expected.resized_size), expected.pixels
        )


def nms_on_gpu(gpu, kernels, images, sizes, selection):
    """Returns the indices of the kept candidates [N,max_detections]; `images`: (boxes, scores, classes) of each,
    equally many."""
    from effedge.deploy.runtime.tensorrt.detector_steps import enqueue_nms
    from tests.gpu.on_gpu import upload_candidates

    stream, count = gpu.stream(), len(images[0][1])
    buffers = upload_candidates(gpu, stream, images, sizes)
    kept = gpu.result_buffer(4 * len(images) * selection.max_detections)
    addresses = [buffer.address for buffer in (*buffers, kept)]
    enqueue_nms(kernels, stream, addresses, len(images), count, selection)
    kept.download(4 * len(images) * selection.max_detections, stream)
    stream.synchronize()
    return kept.view(np.int32, (len(images), selection.max_detections)).copy()


def test_the_nms_kernel_keeps_what_numpy_keeps(current, kernels):
    from effedge.deploy.runtime.tensorrt.detector_steps import Selection

    random, kept_in_total = np.random.default_rng(0), 0
    for _ in range(250):
        batch, count = int(random.integers(1, 9)), int(random.choice([1, 2, 60, 300, 1000]))
        images = [candidates(random, count) for _ in range(batch)]
        for _, scores, _ in images:
            if random.random() < 0.1:
                scores[random.integers(0, count)] = np.nan
        sizes = random.integers(1, 513, (batch, 2)).astype(np.int32)
        threshold, iou = float(random.choice([0, 0.05, 0.3])), float(random.choice([0.3, 0.5, 0.7]))
        most = int(random.choice([1, 10, 100, 1000]))
        kept = nms_on_gpu(current, kernels, images, sizes, Selection(threshold, iou, most))
        for row, image_candidates, size in zip(kept, images, sizes):
            expected = reference(*image_candidates, size, threshold, iou, most)
            assert row[row >= 0].tolist() == expected.tolist()
            assert (row[len(expected) :] == -1).all()
            kept_in_total += len(expected)
    assert kept_in_total > 10_000


def test_a_recorded_graph_does_the_same_with_new_numbers(current, kernels):
    from effedge.deploy.runtime.tensorrt.gpu import Graph

    stream, buffer = current.stream(), current.buffer(64)
    back = current.result_buffer(64)
    back.on_gpu, back.address = buffer.on_gpu, buffer.address  # the bytes that were uploaded are downloaded

    def enqueue():
        buffer.upload(64, stream)
        back.download(64, stream)

    graph = Graph(stream, enqueue)
    for number in (7, 9):
        buffer.view(np.uint8, (64,))[...] = number
        graph.launch(stream)
        stream.synchronize()
        assert (back.view(np.uint8, (64,)) == number).all()


def test_a_buffer_that_does_not_fit_is_one_line(gpu):
    with pytest.raises(UserError, match="no memory left on .* close what else uses the GPU"), gpu.current():
        gpu.memory(1 << 50)


def test_a_failed_capture_leaves_the_stream_usable(current):
    from effedge.deploy.runtime.tensorrt.gpu import CudaError, Graph

    stream, buffer = current.stream(), current.buffer(64)

    def wait():
        buffer.upload(64, stream)
        stream.synchronize()  # which may not be recorded

    with pytest.raises(CudaError):
        Graph(stream, wait)
    buffer.upload(64, stream)
    stream.synchronize()
