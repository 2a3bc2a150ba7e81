"""Measures a model's latency and memory on this device, with random weights.

The latency is that of letterbox, engine and NMS, from a decoded synthetic image of 640 x 480 to its detections. It does
not depend on the weights, with two exceptions: the layers that calibration leaves in 16 bit, and NMS, which has next to
nothing to do with random weights.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from effedge.calibration.settings import Settings
from effedge.deploy.common.files import atomic_folder
from effedge.deploy.timing.percentiles import summarize, warm_up
from effedge.deploy.timing.synthetic_inputs import synthetic_image
from effedge.deploy.timing.workload import ENGINE, Times, make_workload
from effedge.engines.targets import Target
from effedge.pipeline.chain import run_chain
from effedge.pipeline.reports.accuracy.own_process import in_own_process, peak_memory_mib
from effedge.pipeline.request import Checkpoint, Request

SECONDS, LEAST_RUNS = 5.0, 15
# For INT8: thresholds and the rounding of weights make no difference to the latency.
QUICK = Settings(method="minmax", correction=False, float_share=0.0)


class Cost(NamedTuple):
    """The cost of an image, batch 1.

    milliseconds, p90: median and 90th percentile of the latency.
    engine: median of the engine alone, in ms.
    memory_mib: the process's peak (the runtime, the engine and the image).
    """

    model: str
    milliseconds: float
    p90: float
    engine: float
    memory_mib: int


def measure(model: str, precision: str, target: Target, out: Path) -> Cost:
    """Builds the engine, unless it exists, and times it, both in processes of their own.

    Raises UserError if the engine cannot be built or run here.
    """
    images = synthetic_image_folder(out / "image") if precision != "fp32" else None
    request = Request(Checkpoint(model, "random"), precision, target, out, calibration=images, settings=QUICK)
    engine = in_own_process(run_chain, request)
    return in_own_process(measure_cost, model, engine)


def synthetic_image_folder(folder: Path) -> Path:
    """Makes a folder with the synthetic image: for random weights it calibrates as well as other images."""
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            Image.fromarray(synthetic_image()).save(temporary / "synthetic.png")
    return folder


def measure_cost(model: str, engine: Path) -> Cost:
    """Times an engine for SECONDS, and at least LEAST_RUNS runs; to be called in a process of its own."""
    work = make_workload(engine, [], decode=False)
    warm_up(lambda: sum(work.run().values()))
    rows: list[Times] = []
    end = time.perf_counter() + SECONDS
    while len(rows) < LEAST_RUNS or time.perf_counter() < end:
        rows.append(work.run())
    image_times = summarize([sum(row.values()) for row in rows])
    engine_times = summarize([row[ENGINE] for row in rows])
    return Cost(model, image_times["p50"], image_times["p90"], engine_times["p50"], peak_memory_mib())
