"""What copy, letterbox and NMS take on this GPU: python tests/gpu/kernel_times.py [--runs 200]

Medians of CUDA events around each alone, after a warm-up; on the left what the CPU takes for the same, by Pillow and
NumPy (a large picture on two cores).
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pycuda.driver as cuda
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "deploy")]
from kernel_cases import FILL, candidates, reference  # noqa: E402

from deploy.cli import Parser, run  # noqa: E402
from deploy.detector_steps import NMS_BYTES, NMS_THREADS, load_kernels  # noqa: E402
from deploy.gpu import Gpu, launch_blocks, launch_rows  # noqa: E402
from deploy.preprocess import letterbox  # noqa: E402
from deploy.resample import resample_table  # noqa: E402

SIDE, PICTURES = 512, ((480, 640), (1080, 1920), (3000, 4000))
COUNT, MOST, THRESHOLD, IOU = 1000, 100, 0.05, 0.5


def main() -> None:
    parser = Parser(prog="tests/gpu/kernel_times.py", description=__doc__)
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
    new_height, new_width = letterbox(image, (SIDE, SIDE), FILL, Image.Resampling.BILINEAR).resized
    height, width = image.shape[:2]
    (across, taps_across), (down, taps_down) = resample_table(width, new_width), resample_table(height, new_height)
    picture, *tables = (uploaded(gpu, stream, array) for array in (image, across, down))
    narrowed, out = gpu.memory(3 * height * new_width), gpu.memory(3 * SIDE * SIDE)

    def resize():
        launch_rows(
            kernels.narrow, stream, 3 * new_width, height,
            picture.address, int(narrowed), tables[0].address, height, width, new_width, taps_across,
        )  # fmt: skip
        launch_rows(
            kernels.letterbox, stream, 3 * SIDE, SIDE, int(narrowed), int(out), tables[1].address, new_height,
            new_width, taps_down, SIDE, SIDE, 0,
        )  # fmt: skip

    copy = on_gpu(lambda: picture.upload(image.nbytes, stream), stream, runs)
    print(f"| letterbox {height} x {width} -> {SIDE} | {cpu:.0f} | {copy:.0f} | {on_gpu(resize, stream, runs):.0f} |")


def time_nms(gpu, kernels, pictures, runs):
    stream, size = gpu.stream(), np.array([SIDE, SIDE], np.int32)
    sizes = np.stack([size] * len(pictures))
    given = [uploaded(gpu, stream, np.stack(part)) for part in (*zip(*pictures), sizes)]
    kept = gpu.result_buffer(4 * len(pictures) * MOST)
    cpu = on_host(lambda: [reference(*one, size, THRESHOLD, IOU, MOST) for one in pictures], runs // 4)

    def select():
        launch_blocks(
            kernels.nms, stream, len(pictures), NMS_THREADS, NMS_BYTES * COUNT,
            *(buffer.address for buffer in given), kept.address, COUNT, MOST, THRESHOLD, IOU,
        )  # fmt: skip

    print(f"| NMS, {len(pictures)} x {COUNT} candidates | {cpu:.0f} | | {on_gpu(select, stream, runs):.0f} |")


def uploaded(gpu, stream, array):
    buffer = gpu.buffer(array.nbytes)
    buffer.view(array.dtype, array.shape)[...] = array
    buffer.upload(array.nbytes, stream)
    return buffer


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
