"""Two functions in turns: how many times as long one takes as the other, here and now."""

import time
from typing import Any, Callable, List

from effedge.deploy.timing.percentiles import quick

PAIRS, LEAST_PAIRS, SECONDS = 300, 5, 1.5
WARM_UP = 3


def time_ratio(first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """How many times as long the first takes: by the lower quartiles, as what disturbs makes single runs longer."""
    functions = [first, second]
    for function in functions * WARM_UP:
        function()
    pairs: List[List[float]] = []
    started = time.perf_counter()
    while len(pairs) < PAIRS and (len(pairs) < LEAST_PAIRS or time.perf_counter() - started < SECONDS):
        times = [0.0, 0.0]
        for index in (0, 1) if len(pairs) % 2 else (1, 0):
            begun = time.perf_counter()
            functions[index]()
            times[index] = time.perf_counter() - begun
        pairs.append(times)
    ours, theirs = quick(pairs, axis=0)
    return float(ours / theirs)
