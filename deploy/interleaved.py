"""An engine's latencies in turns with a reference's (deploy/reference.py), for the latency test."""

from typing import Any, Dict, List, Optional, Tuple

from deploy.machine import cores
from deploy.percentiles import warm_up
from deploy.reference import Reference, fitted_reference
from deploy.workload import END_TO_END, ENGINE, make_workload

# How the memory of one load happens to lie moves its latency by 2%, and the reference's as much: so there are several.
LOADS = 4
RUNS = 100  # of all these loads together
FITTING = 5  # runs whose quickest says how long the reference should take


def measure(folder: str, reference: Optional[Dict[str, int]] = None, repeats: int = 1) -> Dict[str, Any]:
    """Load the engine several times, and take turns with the reference each time.

    Args:
        reference: the baseline's, to be used again; made to fit the engine's latency if None.
        repeats: how often LOADS loads with RUNS runs.

    Returns:
        {"reference": {"threads", "rounds"}, "before_ms": [runs], "after_ms": [runs], "ms": {step: [runs]}}: the
        reference before and after each run, and the run. The steps are the engine alone, and for pictures end to end,
        from decoded picture to result.
    """
    whole: Dict[str, Any] = {"reference": reference, "before_ms": [], "after_ms": [], "ms": {}}
    for load in range(repeats * LOADS):
        part = measure_load(folder, whole["reference"], (RUNS + load % LOADS) // LOADS)
        whole["reference"] = part["reference"]
        for name in ("before_ms", "after_ms"):
            whole[name] += part[name]
        for step, row in part["ms"].items():
            whole["ms"].setdefault(step, []).extend(row)
    return whole


def measure_load(folder: str, reference: Optional[Dict[str, int]], runs: int) -> Dict[str, Any]:
    """The same of one load."""
    work = make_workload(folder, [], decode=False)

    def once() -> Tuple[float, float]:
        """A run's milliseconds: (of the engine, of all steps)."""
        row = work.run()
        return row[ENGINE], sum(row.values())

    warm_up(lambda: once()[0])
    if reference is None:
        made = fitted_reference(cores(), min(once()[0] for _ in range(FITTING)) / 2)
    else:
        made = Reference(**reference)
    warm_up(made.time)
    steps = [ENGINE] if len(work.steps) == 1 else [ENGINE, END_TO_END]
    references = [round(made.time(), 4)]
    times: Dict[str, List[float]] = {step: [] for step in steps}
    for _ in range(runs):
        for step, value in zip(steps, once()):
            times[step].append(round(value, 4))
        references.append(round(made.time(), 4))
    made.close()
    return {
        "reference": {"threads": made.threads, "rounds": made.rounds},
        "before_ms": references[:-1],
        "after_ms": references[1:],
        "ms": times,
    }
