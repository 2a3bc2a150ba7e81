"""Draws histograms of latencies, a panel for each step."""

from pathlib import Path

import numpy as np

from effedge.deploy.common.plot import figure_at
from effedge.deploy.latency import LatencyReport

BINS = 60
LAST_PERCENTILE = 99.5  # the few slowest would squeeze the rest into one bar


def plot_histogram(report: LatencyReport, path: Path) -> None:
    """Draws each step's latencies. Raises UserError as `effedge.deploy.common.plot.figure_at`."""
    samples, engine, machine = report["samples_ms"], report["engine"], report["machine"]
    with figure_at(path, 9, 1 + 1.8 * len(samples)) as figure:
        panels = figure.subplots(len(samples), squeeze=False)[:, 0]
        for axis, (name, values) in zip(panels, samples.items()):
            end = np.percentile(values, LAST_PERCENTILE)
            axis.hist([value for value in values if value <= end], bins=BINS, color="tab:blue")
            for percentile, style in (("p50", "-"), ("p90", "--"), ("p99", ":")):
                value = report["steps"][name][percentile]
                axis.axvline(value, color="black", linestyle=style, label=f"{percentile} {value:.2f} ms")
            axis.set(title=name, xlabel="latency, ms", ylabel="runs")
            axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, not on them
        figure.suptitle(
            f"{engine['folder']}: {engine['precision']} on {machine['cpu']}, {machine['cores']} cores",
            fontsize="medium",
        )
