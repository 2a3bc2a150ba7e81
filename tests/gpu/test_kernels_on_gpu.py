"""The CUDA kernels on a GPU, against Pillow and NumPy; streams, memory and graphs as deploy/ uses them."""

import numpy as np
import pytest
from kernel_cases import FILL, candidates, reference, sizes
from PIL import Image

from deploy.cli import UserError
from deploy.preprocess import letterbox
from deploy.resample import resample_table


@pytest.fixture(scope="module")
def kernels(gpu, tmp_path_factory):
    """Compiled by nvcc for this GPU."""
    from deploy.detector_steps import load_kernels

    engine = tmp_path_factory.mktemp("kernels") / "engine.plan"
    engine.write_bytes(b"")
    with gpu.current():
        return load_kernels(gpu, engine)


@pytest.fixture
def current(gpu):
    with gpu.current():
        yield gpu


def uploaded(gpu, stream, array):
    buffer = gpu.buffer(array.nbytes)
    buffer.view(array.dtype, array.shape)[...] = array
    buffer.upload(array.nbytes, stream)
    return buffer


def letterbox_on_gpu(gpu, kernels, image, size, resized):
    from deploy.gpu import launch_rows

    stream, (height, width), (new_height, new_width) = gpu.stream(), image.shape[:2], resized
    (across, taps_across), (down, taps_down) = resample_table(width, new_width), resample_table(height, new_height)
    given = [uploaded(gpu, stream, array) for array in (image, across, down)]
    narrowed, out = gpu.memory(3 * height * new_width), gpu.result_buffer(3 * size[0] * size[1])
    launch_rows(
        kernels.narrow, stream, 3 * new_width, height,
        given[0].address, int(narrowed), given[1].address, height, width, new_width, taps_across,
    )  # fmt: skip
    fill = FILL[0] | FILL[1] << 8 | FILL[2] << 16
    launch_rows(
        kernels.letterbox, stream, 3 * size[1], size[0],
        int(narrowed), out.address, given[2].address, new_height, new_width, taps_down, *size, fill,
    )  # fmt: skip
    out.download(3 * size[0] * size[1], stream)
    stream.synchronize()
    return out.view(np.uint8, (*size, 3)).copy()


@pytest.mark.parametrize("seed", range(4))
def test_the_letterbox_kernels_give_pillows_pixels_to_the_last_bit(current, kernels, seed):
    random = np.random.default_rng(seed)
    for picture, size in sizes(seed, 120):
        image = random.integers(0, 256, (*picture, 3), np.uint8)
        if random.random() < 0.2:
            image[:] = 255 * (image > 127)
        expected = letterbox(image, size, FILL, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(
            letterbox_on_gpu(current, kernels, image, size, expected.resized), expected.pixels
        )


def nms_on_gpu(gpu, kernels, pictures, sizes, threshold, iou, most):
    """`pictures`: boxes, scores and classes of each, of one count -> what is kept of each, [N,most]."""
    from deploy.detector_steps import NMS_BYTES, NMS_THREADS
    from deploy.gpu import launch_blocks

    stream, count = gpu.stream(), len(pictures[0][1])
    given = [uploaded(gpu, stream, np.stack(part)) for part in (*zip(*pictures), sizes)]
    kept = gpu.result_buffer(4 * len(pictures) * most)
    launch_blocks(
        kernels.nms, stream, len(pictures), NMS_THREADS, NMS_BYTES * count,
        *(buffer.address for buffer in given), kept.address, count, most, threshold, iou,
    )  # fmt: skip
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
    from deploy.gpu import Graph

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

    from deploy.gpu import CaptureError, Graph

    stream, buffer = current.stream(), current.buffer(64)

    def wait():
        buffer.upload(64, stream)
        stream.synchronize()  # which may not be recorded

    with pytest.raises((CaptureError, cuda.Error)):
        Graph(stream, wait)
    buffer.upload(64, stream)
    stream.synchronize()
