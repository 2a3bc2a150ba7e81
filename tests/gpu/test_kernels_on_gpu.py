"""The CUDA kernels on a GPU, against Pillow and NumPy; streams, memory and graphs as deploy/ uses them."""

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from tests.deploy.kernel_cases import FILL, candidates, letterbox_cases, reference


@pytest.fixture(scope="module")
def kernels(gpu, tmp_path_factory):
    """Compiled by nvcc for this GPU."""
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
    from effedge.deploy.runtime.tensorrt.detector_steps import enqueue_letterbox
    from tests.gpu.on_gpu import placed

    stream = gpu.stream()
    given, place = placed(gpu, stream, image, resized)
    narrowed, out = gpu.memory(3 * place.height * place.new_width), gpu.result_buffer(3 * size[0] * size[1])
    fill = FILL[0] | FILL[1] << 8 | FILL[2] << 16
    enqueue_letterbox(kernels, stream, 0, place, int(narrowed), out.address, size, fill)
    out.download(3 * size[0] * size[1], stream)
    stream.synchronize()
    return out.view(np.uint8, (*size, 3)).copy()


@pytest.mark.parametrize("seed", range(4))
def test_the_letterbox_kernels_give_pillows_pixels_to_the_last_bit(current, kernels, seed):
    for image, size, expected in letterbox_cases(seed, 120):
        np.testing.assert_array_equal(
            letterbox_on_gpu(current, kernels, image, size, expected.resized), expected.pixels
        )


def nms_on_gpu(gpu, kernels, pictures, sizes, threshold, iou, most):
    """`pictures`: boxes, scores and classes of each, of one count -> what is kept of each, [N,most]."""
    from effedge.deploy.runtime.tensorrt.detector_steps import enqueue_nms
    from tests.gpu.on_gpu import uploaded_candidates

    stream, count = gpu.stream(), len(pictures[0][1])
    given = uploaded_candidates(gpu, stream, pictures, sizes)
    kept = gpu.result_buffer(4 * len(pictures) * most)
    addresses = [buffer.address for buffer in (*given, kept)]
    enqueue_nms(kernels, stream, addresses, len(pictures), count, most, threshold, iou)
    kept.download(4 * len(pictures) * most, stream)
    stream.synchronize()
    return kept.view(np.int32, (len(pictures), most)).copy()


def test_the_nms_kernel_keeps_what_numpy_keeps(current, kernels):
    random, kept_at_all = np.random.default_rng(0), 0
    for _ in range(250):
        batch, count = int(random.integers(1, 9)), int(random.choice([1, 2, 60, 300, 1000]))
        pictures = [candidates(random, count) for _ in range(batch)]
        for _, scores, _ in pictures:
            if random.random() < 0.1:
                scores[random.integers(0, count)] = np.nan
        sizes = random.integers(1, 513, (batch, 2)).astype(np.int32)
        threshold, iou = float(random.choice([0, 0.05, 0.3])), float(random.choice([0.3, 0.5, 0.7]))
        most = int(random.choice([1, 10, 100, 1000]))
        kept = nms_on_gpu(current, kernels, pictures, sizes, threshold, iou, most)
        for row, given, size in zip(kept, pictures, sizes):
            expected = reference(*given, size, threshold, iou, most)
            assert row[row >= 0].tolist() == expected.tolist()
            assert (row[len(expected) :] == -1).all()
            kept_at_all += len(expected)
    assert kept_at_all > 10_000


def test_a_recorded_graph_does_the_same_with_new_numbers(current, kernels):
    from effedge.deploy.runtime.tensorrt.gpu import Graph

    stream, buffer = current.stream(), current.buffer(64)
    back = current.result_buffer(64)
    back.on_gpu, back.address = buffer.on_gpu, buffer.address  # down comes what went up

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
    import pycuda.driver as cuda

    from effedge.deploy.runtime.tensorrt.gpu import CaptureError, Graph

    stream, buffer = current.stream(), current.buffer(64)

    def wait():
        buffer.upload(64, stream)
        stream.synchronize()  # which may not be recorded

    with pytest.raises((CaptureError, cuda.Error)):
        Graph(stream, wait)
    buffer.upload(64, stream)
    stream.synchronize()
