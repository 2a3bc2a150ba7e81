"""Times copy, letterbox and NMS on this GPU: python tests/benchmarks/kernel_times.py [--runs 200]

Prints medians of CUDA events around each of them, after a warm-up, beside the time of Pillow and NumPy on the CPU.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pycuda.driver as cuda

from effedge.deploy.common.cli import Parser, run
from effedge.deploy.image.preprocess import letterbox, letterboxed_size
from effedge.deploy.image.resample import FILTERS
from effedge.deploy.runtime.tensorrt.detector_steps import (
    LetterboxTarget,
    Selection,
    enqueue_letterbox,
    enqueue_nms,
    load_kernels,
)
from effedge.deploy.runtime.tensorrt.gpu import Gpu
from tests.deploy.kernel_cases import FILL, candidates, reference
from tests.gpu.on_gpu import upload_candidates, upload_image

SIDE, IMAGES = 512, ((480, 640), (1080, 1920), (3000, 4000))
COUNT, SELECTION = 1000, Selection(threshold=0.05, iou=0.5, max_detections=100)


def main() -> None:
    parser = Parser(prog="tests/benchmarks/kernel_times.py", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="of each (default: %(default)s)")
    runs = parser.parse_args().runs
    gpu = Gpu(Path("the kernels"))
    print(f"{gpu.name}, {gpu.architecture}; microseconds")
    print("| | CPU | copy to the GPU | kernels |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, gpu.current():
        engine = Path(scratch, "engine.plan")
        engine.write_bytes(b"")
        kernels = load_kernels(gpu, engine)
        random = np.random.default_rng(0)
        for height, width in IMAGES:
            time_letterbox(gpu, kernels, random.integers(0, 256, (height, width, 3), np.uint8), runs)
        for batch in (1, 8):
            time_nms(gpu, kernels, [candidates(random, COUNT) for _ in range(batch)], runs)


def time_letterbox(gpu, kernels, image, runs):
    stream = gpu.stream()
    cpu = on_host(lambda: letterbox(image, (SIDE, SIDE), FILL, FILTERS["bilinear"]), runs // 4)
    buffers, packed_image = upload_image(gpu, stream, image, letterboxed_size(image.shape[:2], (SIDE, SIDE)))
    height, width = image.shape[:2]
    horizontal, out = gpu.memory(3 * height * packed_image.new_width), gpu.memory(3 * SIDE * SIDE)
    target = LetterboxTarget(int(out), SIDE, SIDE, 0)

    def resize():
        enqueue_letterbox(kernels, stream, 0, packed_image, int(horizontal), target)

    copy = on_gpu(lambda: buffers[0].upload(image.nbytes, stream), stream, runs)
    print(f"| letterbox {height} x {width} -> {SIDE} | {cpu:.0f} | {copy:.0f} | {on_gpu(resize, stream, runs):.0f} |")


def time_nms(gpu, kernels, images, runs):
    stream, size = gpu.stream(), np.array([SIDE, SIDE], np.int32)
    sizes = np.stack([size] * len(images))
    buffers = upload_candidates(gpu, stream, images, sizes)
    kept = gpu.result_buffer(4 * len(images) * SELECTION.max_detections)
    addresses = [buffer.address for buffer in (*buffers, kept)]
    cpu = on_host(lambda: [reference(*image, size, *SELECTION) for image in images], runs // 4)

    def select():
        enqueue_nms(kernels, stream, addresses, len(images), COUNT, SELECTION)

    print(f"| NMS, {len(images)} x {COUNT} candidates | {cpu:.0f} | | {on_gpu(select, stream, runs):.0f} |")


def on_host(work, runs):
    """Returns the median microseconds of `work`."""
    times = []
    for _ in range(max(3, runs)):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times))


def on_gpu(work, stream, runs):
    """Returns the median microseconds of the work that `work` enqueues."""
    times = []
    for index in range(runs + 10):
        first, last = cuda.Event(), cuda.Event()
        first.record(stream)
        work()
        last.record(stream)
        last.synchronize()
        if index >= 10:
            times.append(1000 * first.time_till(last))
    return float(np.median(times))


if __name__ == "__main__":
    run(main)
