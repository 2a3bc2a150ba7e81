"""The histogram of latencies: what its axes are called."""

import pytest

from effedge.deploy.timing.latency_plot import plot_histogram
from effedge.deploy.timing.percentiles import summarize


def test_each_step_has_a_title_and_axes_with_units(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.write_bytes(b"x")))
    samples = {"engine": [1.0, 2.0, 3.0], "end to end": [2.0, 3.0, 9.0]}
    report = {
        "samples_ms": samples,
        "steps": {name: summarize(row) for name, row in samples.items()},
        "engine": {"folder": "build/x", "precision": "int8"},
        "machine": {"cpu": "a CPU", "cores": 2},
    }
    plot_histogram(report, tmp_path / "latency.png")  # type: ignore[arg-type]
    [figure] = drawn
    labels = [(axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels == [("engine", "latency, ms", "runs"), ("end to end", "latency, ms", "runs")]
    assert "build/x: int8" in figure._suptitle.get_text()
