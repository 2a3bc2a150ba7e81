"""What copy, letterbox and NMS take on this GPU: python tests/benchmarks/kernel_times.py [--runs 200]

Medians of CUDA events around each alone, after a warm-up; on the left what the CPU takes for the same, by Pillow and
NumPy (a large picture on two cores).
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pycuda.driver as cuda
from PIL import Image

from effedge.deploy.common.cli import Parser, run
from effedge.deploy.image.preprocess import letterbox, letterboxed_size
from effedge.deploy.runtime.tensorrt.detector_steps import enqueue_letterbox, enqueue_nms, load_kernels
from effedge.deploy.runtime.tensorrt.gpu import Gpu
from tests.deploy.kernel_cases import FILL, candidates, reference
from tests.gpu.on_gpu import placed, uploaded_candidates

SIDE, PICTURES = 512, ((480, 640), (1080, 1920), (3000, 4000))
COUNT, MOST, THRESHOLD, IOU = 1000, 100, 0.05, 0.5


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
        for height, width in PICTURES:
            time_letterbox(gpu, kernels, random.integers(0, 256, (height, width, 3), np.uint8), runs)
        for batch in (1, 8):
            time_nms(gpu, kernels, [candidates(random, COUNT) for _ in range(batch)], runs)


def time_letterbox(gpu, kernels, image, runs):
    stream = gpu.stream()
    cpu = on_host(lambda: letterbox(image, (SIDE, SIDE), FILL, Image.Resampling.BILINEAR), runs // 4)
    given, place = placed(gpu, stream, image, letterboxed_size(image.shape[:2], (SIDE, SIDE)))
    height, width = image.shape[:2]
    narrowed, out = gpu.memory(3 * height * place.new_width), gpu.memory(3 * SIDE * SIDE)

    def resize():
        enqueue_letterbox(kernels, stream, 0, place, int(narrowed), int(out), (SIDE, SIDE), 0)

    copy = on_gpu(lambda: given[0].upload(image.nbytes, stream), stream, runs)
    print(f"| letterbox {height} x {width} -> {SIDE} | {cpu:.0f} | {copy:.0f} | {on_gpu(resize, stream, runs):.0f} |")


def time_nms(gpu, kernels, pictures, runs):
    stream, size = gpu.stream(), np.array([SIDE, SIDE], np.int32)
    sizes = np.stack([size] * len(pictures))
    given = uploaded_candidates(gpu, stream, pictures, sizes)
    kept = gpu.result_buffer(4 * len(pictures) * MOST)
    addresses = [buffer.address for buffer in (*given, kept)]
    cpu = on_host(lambda: [reference(*one, size, THRESHOLD, IOU, MOST) for one in pictures], runs // 4)

    def select():
        enqueue_nms(kernels, stream, addresses, len(pictures), COUNT, MOST, THRESHOLD, IOU)

    print(f"| NMS, {len(pictures)} x {COUNT} candidates | {cpu:.0f} | | {on_gpu(select, stream, runs):.0f} |")


def on_host(work, runs):
    """Median microseconds of `work`."""
    times = []
    for _ in range(max(3, runs)):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times))


def on_gpu(work, stream, runs):
    """Median microseconds of what `work` enqueues."""
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
