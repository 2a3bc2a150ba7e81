"""Runs an engine without a pause, and reads the board as it warms up: latency, temperature, clocks, throttling, memory.

A board that is cool for the ten seconds of a latency measurement may throttle after minutes, by its cooler and its
power mode. The readings are equally spaced; each has the percentiles of the runs since the one before it. The runs are
counted, not kept: memory that grows during a soak is the engine's.
"""

import time
from pathlib import Path
from typing import List, Optional, Sequence, TypedDict

import numpy as np

from effedge.deploy.common.messages import track
from effedge.deploy.timing.board import Board, board
from effedge.deploy.timing.board_notes import disturbances, hottest
from effedge.deploy.timing.machine import field, read
from effedge.deploy.timing.percentiles import Histogram, warm_up
from effedge.deploy.timing.workload import make_workload

READINGS = 60
LEAST_INTERVAL = 1.0  # seconds between readings
FIFTH = 5  # the drift compares the first and the last fifth of the readings
STATUS = Path("/proc/self/status")


class SoakReading(TypedDict):
    """A reading: the second that it was taken at, the runs since the one before, and their milliseconds."""

    second: float
    runs: int
    p50: float
    p99: float
    temperature_c: Optional[float]  # of the hottest sensor
    gpu_mhz: Optional[int]
    throttled_by: List[str]
    memory_mib: Optional[int]  # of this process


class SoakReport(TypedDict):
    """A soak. `drift` is the last fifth's median latency over the first fifth's; `notes` say what slowed the board."""

    seconds: float
    runs: int
    p50: float
    p99: float
    drift: float
    readings: List[SoakReading]
    before: Board
    after: Board
    notes: List[str]


def soak(folder: str, images: Sequence[Path], seconds: float) -> SoakReport:
    """Runs the engine in `folder` on decoded images for so long, from the pixels to the result.

    Raises UserError as `effedge.deploy.timing.workload.make_workload`.
    """
    work = make_workload(folder, images, decode=False)
    warm_up(lambda: sum(work.run().values()))
    before = board()
    interval = max(LEAST_INTERVAL, seconds / READINGS)
    readings: List[SoakReading] = []
    everything, times = Histogram(), Histogram()
    started = time.monotonic()
    with track(total=seconds, desc="soak", unit="s") as bar:
        while time.monotonic() - started < seconds:
            end = min(seconds, (len(readings) + 1) * interval)
            times.add(sum(work.run().values()))
            while time.monotonic() - started < end:
                times.add(sum(work.run().values()))
            readings.append(reading(time.monotonic() - started, times))
            times.move_to(everything)
            bar.set_postfix_str(describe(readings[-1]), refresh=False)
            bar.update(readings[-1]["second"] - bar.n)
    after = board()
    fifth = max(1, len(readings) // FIFTH)
    first, last = (np.median([row["p50"] for row in part]) for part in (readings[:fifth], readings[-fifth:]))
    notes = disturbances(before, after)
    throttled = [row for row in readings if row["throttled_by"]]
    if throttled:
        reasons = sorted({reason for row in throttled for reason in row["throttled_by"]})
        notes.append(f"throttled at {len(throttled)} of {len(readings)} readings: {', '.join(reasons)}")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "runs": everything.runs,
        "p50": everything.percentile(50),
        "p99": everything.percentile(99),
        "drift": round(float(last / first), 4),
        "readings": readings,
        "before": before,
        "after": after,
        "notes": notes,
    }


def reading(second: float, times: Histogram) -> SoakReading:
    """Reads the board after these runs."""
    facts = board()
    hot = hottest(facts)
    gpus = facts["gpus"]
    throttled = facts["throttled_by"] + [reason for gpu in gpus for reason in gpu.get("throttled_by") or []]
    resident = field(read(STATUS), "VmRSS")
    return {
        "second": round(second, 1),
        "runs": times.runs,
        "p50": times.percentile(50),
        "p99": times.percentile(99),
        "temperature_c": None if hot is None else hot[1],
        "gpu_mhz": next((gpu["mhz"] for gpu in gpus if gpu.get("mhz") is not None), None),
        "throttled_by": throttled,
        "memory_mib": int(resident.split()[0]) // 1024 if resident else None,
    }


def describe(row: SoakReading) -> str:
    """Writes a reading for the progress line."""
    hot = "" if row["temperature_c"] is None else f", {row['temperature_c']:.0f} degrees"
    slow = f", throttled by {', '.join(row['throttled_by'])}" if row["throttled_by"] else ""
    return f"p50 {row['p50']:.2f} ms{hot}{slow}"
