"""An engine's latencies in turns with a yardstick's, for the latency test: the engine that the baseline kept, or a
reference (deploy/timing/reference.py)."""

from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from effedge.deploy.timing.machine import cores
from effedge.deploy.timing.percentiles import warm_up
from effedge.deploy.timing.reference import Reference, fitted_reference
from effedge.deploy.timing.workload import END_TO_END, ENGINE, Workload, make_workload

# How the memory of one load happens to lie moves its latency by 2%, and the reference's as much: so there are several.
LOADS = 6
RUNS = 120  # of all these loads together
FITTING = 5  # runs whose quickest says how long the reference should take

Times = Dict[str, float]  # milliseconds by step: the engine alone, and for pictures end to end, from decoded to result
# {"loads": [runs], "yardstick_ms", "ms": {step: [runs]}}: the number of each run's load, the yardstick's run before it,
# and the run.
Measured = Dict[str, Any]


def measure(folder: str, reference: Optional[Dict[str, int]] = None, repeats: int = 1) -> Measured:
    """Load the engine several times, and take turns with the reference each time.

    Args:
        reference: the baseline's, to be used again; made to fit the engine's latency if None.
        repeats: how often LOADS loads with RUNS runs.

    Returns: as Measured, and "reference": {"threads", "rounds"}.
    """
    parts: List[Measured] = []
    for load in range(repeats * LOADS):
        parts.append(measure_load(folder, reference, runs_of(load)))
        reference = parts[-1]["reference"]
    return {"reference": reference, **joined(parts)}


def measure_load(folder: str, reference: Optional[Dict[str, int]], runs: int) -> Measured:
    """The same of one load, which is gone when the next one comes."""
    work = load_warm(folder)
    if reference is None:
        made = fitted_reference(cores(), min(run(work)[ENGINE] for _ in range(FITTING)) / 2)
    else:
        made = Reference(**reference)
    warm_up(made.time)
    found = take_turns(partial(run, work), made.time, runs)
    made.close()
    return {"reference": {"threads": made.threads, "rounds": made.rounds}, **found}


def measure_beside(folder: str, kept: Union[str, Path]) -> Measured:
    """The same with the engine in the folder `kept` as the yardstick, which is loaded anew each time too."""
    return joined([load_beside(folder, str(kept), load) for load in range(LOADS)])


def load_beside(folder: str, kept: str, load: int) -> Measured:
    order = (folder, kept) if load % 2 else (kept, folder)  # the first finds other memory free
    works = {path: load_warm(path) for path in order}
    return take_turns(partial(run, works[folder]), partial(run, works[kept]), runs_of(load))


def load_warm(folder: str) -> Workload:
    work = make_workload(folder, [], decode=False)
    warm_up(lambda: run(work)[ENGINE])
    return work


def run(work: Workload) -> Times:
    row = work.run()
    return {ENGINE: row[ENGINE]} if len(work.steps) == 1 else {ENGINE: row[ENGINE], END_TO_END: sum(row.values())}


def runs_of(load: int) -> int:
    return (RUNS + load % LOADS) // LOADS


def take_turns(once: Callable[[], Times], yardstick: Callable[[], Union[float, Times]], runs: int) -> Measured:
    """`runs` runs, each after one of the yardstick, of which one number stands for every step."""
    whole: Measured = {"loads": [0] * runs, "yardstick_ms": {}, "ms": {}}
    for _ in range(runs):
        yard = yardstick()
        for step, value in once().items():
            whole["ms"].setdefault(step, []).append(round(value, 4))
            known = yard[step] if isinstance(yard, dict) else yard
            whole["yardstick_ms"].setdefault(step, []).append(round(known, 4))
    return whole


def joined(parts: Sequence[Measured]) -> Measured:
    """Measurements one after the other; their loads are numbered on."""
    whole: Measured = {"loads": [], "yardstick_ms": {}, "ms": {}}
    for part in parts:
        first = max(whole["loads"], default=-1) + 1
        whole["loads"] += [first + load for load in part["loads"]]
        for name in ("yardstick_ms", "ms"):
            for step, row in part[name].items():
                whole[name].setdefault(step, []).extend(row)
    return whole
