"""Measures the images a second of an engine in throughput mode, where the steps of several images run in parallel."""

import itertools
import tempfile
import time
from pathlib import Path
from typing import Sequence, TypedDict

from PIL import Image

from effedge.deploy.timing.synthetic_inputs import synthetic_image
from effedge.deploy.timing.workload import load_model

WARM_UP = 16  # images


class Throughput(TypedDict):
    """The number of images that were timed, the images in parallel, images a second, and the gain over one by one."""

    images: int
    side_by_side: int
    per_second: float
    gain: float


def throughput(folder: str, task: str, images: Sequence[Path], count: int, latency_ms: float, batch: int) -> Throughput:
    """Times an engine in throughput mode.

    Args:
        images: repeated until there are `count`; a synthetic one, on the disk, if there are none.
        latency_ms: of a batch through all steps, one after the other.
    """
    model = load_model(folder, task, throughput=True)
    with tempfile.TemporaryDirectory() as scratch:
        if not images:
            path = Path(scratch) / "synthetic.jpg"
            Image.fromarray(synthetic_image()).save(str(path), quality=90)
            images = [path]
        for _ in model.stream(itertools.islice(itertools.cycle(images), WARM_UP)):
            pass
        started = time.perf_counter()
        for _ in model.stream(itertools.islice(itertools.cycle(images), count)):
            pass
        seconds = time.perf_counter() - started
    rate = count / seconds
    gain = rate * latency_ms / (1000 * batch)
    return {
        "images": count,
        "side_by_side": model.engine.parallel,
        "per_second": round(rate, 2),
        "gain": round(gain, 3),
    }
