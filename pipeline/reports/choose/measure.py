"""What a model costs on this device, with random weights: its engine is built by the chain and timed.

The latency is from the decoded picture (a made-up one of 640 x 480) to what was found in it: letterbox, engine, NMS.
It does not depend on the weights, but for what calibration leaves in 16 bit, and for NMS, which finds next to nothing
with random ones.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from effedge.calibration.settings import Settings
from effedge.deploy.common.files import whole_folder
from effedge.deploy.timing.percentiles import summarize, warm_up
from effedge.deploy.timing.synthetic_inputs import made_up_picture
from effedge.deploy.timing.workload import ENGINE, Times, make_workload
from effedge.engines.targets import Target
from effedge.pipeline.chain import Request, build_chain
from effedge.pipeline.reports.accuracy.own_process import in_own_process, peak_memory_mib

SECONDS, LEAST_RUNS = 5.0, 15
# Of INT8: where the thresholds lie, and how the weights are rounded, makes no difference to the latency.
QUICK = Settings(method="minmax", correction=False, float_share=0.0)


class Cost(NamedTuple):
    """Of a picture, batch 1, in ms: the median and the 90th percentile, and the median of the engine alone; and the
    most memory that the process had, in MiB (the runtime, the engine and the picture)."""

    model: str
    milliseconds: float
    p90: float
    engine: float
    memory_mib: int


def measure(model: str, precision: str, target: Target, out: Path, quiet: bool) -> Cost:
    """Build the engine, unless it is there, and time it, each in a process of its own.

    Raises UserError if it cannot be built or run here.
    """
    pictures = one_picture(out / "picture") if precision != "fp32" else None
    wanted = Request(precision, target, out, calibration=pictures, settings=QUICK, quiet=quiet)
    engine = in_own_process(build_chain, model, "random", wanted)
    return in_own_process(cost, model, engine)


def one_picture(folder: Path) -> Path:
    """A folder with the made-up picture: random weights know no pictures, so it calibrates as well as others."""
    if not folder.is_dir():
        with whole_folder(folder) as temporary:
            Image.fromarray(made_up_picture()).save(temporary / "made-up.png")
    return folder


def cost(model: str, engine: Path) -> Cost:
    """Time an engine until enough runs were seen; to be called in a process of its own."""
    work = make_workload(engine, [], decode=False)
    warm_up(lambda: sum(work.run().values()))
    rows: list[Times] = []
    end = time.perf_counter() + SECONDS
    while len(rows) < LEAST_RUNS or time.perf_counter() < end:
        rows.append(work.run())
    whole = summarize([sum(row.values()) for row in rows])
    alone = summarize([row[ENGINE] for row in rows])
    return Cost(model, whole["p50"], whole["p90"], alone["p50"], peak_memory_mib())
