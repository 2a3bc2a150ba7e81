"""Measures the latencies of a report's engines on this machine, a run of each in turn.

What disturbs one engine then disturbs the others too, so their figures can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import track
from effedge.deploy.timing.latency_plot import LAST_PERCENTILE
from effedge.deploy.timing.percentiles import warm_up
from effedge.deploy.timing.workload import Workload, make_workload
from effedge.pipeline.reports.report.engines import ReportedEngine
from effedge.pipeline.reports.report.figures import Chart, histogram

SECONDS = 5.0  # of each engine
LEAST_RUNS, MOST_RUNS = 20, 1000
IMAGES = 8  # that the runs take in turn, so that detectors have something to select from


def measure_latencies(engines: Sequence[ReportedEngine], images: Sequence[Path]) -> None:
    """Times the engines that ran on the data, from an image in memory to its result, and keeps the latencies."""
    works: list[tuple[ReportedEngine, Workload]] = []
    for engine in engines:
        if engine.results is None:
            continue
        try:
            works.append((engine, make_workload(engine.folder, images[:IMAGES], decode=False)))
        except UserError as error:
            engine.reason = str(error)
    for _, work in works:
        warm_up(lambda work=work: run_ms(work))  # type: ignore[misc]
    end = time.monotonic() + SECONDS * len(works)
    for count in track(range(MOST_RUNS if works else 0), desc="latency", unit="run"):
        if count >= LEAST_RUNS and time.monotonic() > end:
            break
        for engine, work in works:
            engine.latencies.append(run_ms(work))


def run_ms(work: Workload) -> float:
    """Runs all steps once; returns the milliseconds of all of them."""
    return sum(work.run().values())


def histograms(engines: Sequence[ReportedEngine]) -> list[Chart]:
    """Makes the histogram of each engine that was timed, all over the same range."""
    timed = [(number, engine) for number, engine in enumerate(engines) if engine.latencies]
    if not timed:
        return []
    low = min(min(engine.latencies) for _, engine in timed)
    high = max(float(np.percentile(engine.latencies, LAST_PERCENTILE)) for _, engine in timed)
    margin = 0.03 * (high - low) or 0.5
    charts = []
    for number, engine in timed:
        p50, p99 = np.percentile(engine.latencies, [50, 99])
        lines = {"p50": float(p50), "p99": float(p99)}
        charts.append(histogram(engine.name, number, engine.latencies, lines, (max(0.0, low - margin), high + margin)))
    return charts
