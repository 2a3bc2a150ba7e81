"""Measures an engine's latencies, interleaved with a yardstick's: another engine's, or the reference workload's.

The engine that a baseline kept, or the second of two engines that are compared, is loaded anew with the engine. The
reference workload (deploy/timing/reference.py) is for baselines of another day.
"""

from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, TypedDict

import numpy as np

from effedge.deploy.timing.comparison import Interval, interleave, interval, log_ratio
from effedge.deploy.timing.machine import cores
from effedge.deploy.timing.percentiles import warm_up
from effedge.deploy.timing.reference import Reference, fitted_reference
from effedge.deploy.timing.workload import END_TO_END, ENGINE, Times, Workload, make_workload

# How the memory of one load happens to lie moves its latency by 2%, and the reference's as much: so there are several.
LOADS = 6
RUNS = 120  # of all these loads together
WARM_UP = 10  # runs of each engine beside another: what disturbs one disturbs the other, so they need not be steady
FITTING = 5  # runs whose quickest says how long the reference should take


class ReferenceSize(TypedDict):
    """The arguments of a Reference."""

    threads: int
    rounds: int


class Measurement(TypedDict):
    """Runs, round by round: the number of the load, and by step the yardstick's milliseconds and the engine's."""

    loads: List[int]
    yardstick_ms: Dict[str, List[float]]
    ms: Dict[str, List[float]]


class ReferenceMeasurement(Measurement):
    """A measurement whose yardstick was a reference of this size."""

    reference: ReferenceSize


def run_steps(work: Workload) -> Times:
    """Runs all steps; returns the engine's milliseconds and, if it takes images, those from pixels to result."""
    times = work.run()
    return {ENGINE: times[ENGINE]} if len(times) == 1 else {ENGINE: times[ENGINE], END_TO_END: sum(times.values())}


def rounds_of(load: int) -> int:
    """Returns the number of rounds of a load: the LOADS loads have RUNS rounds together."""
    return (RUNS + load % LOADS) // LOADS


def measure(folder: str, reference: Optional[ReferenceSize] = None, repeats: int = 1) -> ReferenceMeasurement:
    """Loads an engine several times, and interleaves its runs with the reference's each time.

    Args:
        reference: the baseline's, to be used again; made to fit the engine's latency if None.
        repeats: how often LOADS loads with RUNS runs.
    """
    parts: List[ReferenceMeasurement] = []
    for load in range(repeats * LOADS):
        parts.append(measure_load(folder, reference, rounds_of(load)))
        reference = parts[-1]["reference"]
    return {"reference": parts[-1]["reference"], **join(parts)}


def measure_load(folder: str, size: Optional[ReferenceSize], rounds: int) -> ReferenceMeasurement:
    """Measures one load of the engine, which is gone when the next one comes."""
    work = make_workload(folder, [], decode=False)
    warm_up(lambda: run_steps(work)[ENGINE])
    if size is None:
        reference = fitted_reference(cores(), min(run_steps(work)[ENGINE] for _ in range(FITTING)) / 2)
    else:
        reference = Reference(**size)
    warm_up(reference.time)
    measurement = interleave_runs(
        partial(run_steps, work), lambda: dict.fromkeys((ENGINE, END_TO_END), reference.time()), rounds
    )
    reference.close()
    return {"reference": {"threads": reference.threads, "rounds": reference.rounds}, **measurement}


def measure_beside(folder: str, yardstick: str, run: Callable[[Workload], Times] = run_steps) -> Measurement:
    """Loads an engine and another one several times, and interleaves their runs each time.

    Args:
        yardstick: the other engine's folder.
        run: does the work to be timed once, and returns its milliseconds by step.
    """
    return join([load_beside(folder, yardstick, load, run) for load in range(LOADS)])


def load_beside(folder: str, yardstick: str, load: int, run: Callable[[Workload], Times]) -> Measurement:
    """Measures one load of both engines."""
    order = (folder, yardstick) if load % 2 else (yardstick, folder)  # the first finds other memory free
    works = {path: make_workload(path, [], decode=False) for path in order}
    for work in list(works.values()) * WARM_UP:
        run(work)
    return interleave_runs(partial(run, works[folder]), partial(run, works[yardstick]), rounds_of(load))


def compare_engines(first: Path, second: Path) -> Interval:
    """How many times as long the first engine takes as the second, without letterbox and NMS, with a 95% interval.

    Raises:
        UserError: as `effedge.deploy.timing.workload.make_workload`.
    """
    measurement = measure_beside(str(first), str(second), lambda work: {ENGINE: work.time_engine()})
    return interval(log_ratios(measurement, ENGINE), confidence=0.95)


def interleave_runs(engine: Callable[[], Times], yardstick: Callable[[], Times], rounds: int) -> Measurement:
    """Measures one load; the yardstick gives at least the steps that the engine gives."""
    measurement: Measurement = {"loads": [0] * rounds, "yardstick_ms": {}, "ms": {}}
    for yardstick_times, times in interleave([yardstick, engine], rounds):
        for step, milliseconds in times.items():
            measurement["ms"].setdefault(step, []).append(round(milliseconds, 4))
            measurement["yardstick_ms"].setdefault(step, []).append(round(yardstick_times[step], 4))
    return measurement


def join(parts: Sequence[Measurement]) -> Measurement:
    """Puts measurements one after the other; their loads are numbered on."""
    whole: Measurement = {"loads": [], "yardstick_ms": {}, "ms": {}}
    for part in parts:
        first = max(whole["loads"], default=-1) + 1
        whole["loads"] += [first + load for load in part["loads"]]
        for rows, more in ((whole["yardstick_ms"], part["yardstick_ms"]), (whole["ms"], part["ms"])):
            for step, row in more.items():
                rows.setdefault(step, []).extend(row)
    return whole


def log_ratios(measurement: Measurement, step: str) -> np.ndarray:
    """The figure of each load (`log_ratio`): the engine's latency in one step in units of the yardstick's."""
    loads, engine, yardstick = (
        np.asarray(row) for row in (measurement["loads"], measurement["ms"][step], measurement["yardstick_ms"][step])
    )
    return np.array([log_ratio(engine[loads == load], yardstick[loads == load]) for load in np.unique(loads)])
