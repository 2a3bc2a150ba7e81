"""No latency baseline, however damaged, is more than one line of error, and none makes the test pass by its numbers."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given

from effedge.deploy.latency_test import FORMAT, read_baseline
from effedge.deploy.timing.board import board
from effedge.deploy.timing.board_notes import notes
from effedge.deploy.timing.regression import compare
from tests.fuzz.strategies import FAST, SLOW, changed, damaged, one_line_or, run_of

COUNTS = [FAST, pytest.param(SLOW // 2, marks=pytest.mark.slow)]
ROWS = {"engine": [2.0, 2.1, 2.2, 2.0, 2.1, 2.05], "end to end": [3.0, 3.1, 3.2, 3.0, 3.1, 3.05]}
BOARD = {
    "l4t": "R36.4.3", "power_mode": {"id": 0, "name": "MAXN"},
    "cpu": {"governor": "schedutil", "mhz": [700, 1500], "limits_mhz": [700, 1500]},
    "gpus": [{"name": "gpu", "mhz": 600, "limits_mhz": [300, 900], "throttled_by": []}],
    "temperatures_c": {"CPU": 50.5}, "throttled_by": [], "throttle_counts": {"x": 1},
}  # fmt: skip
BASELINE = {
    "format": FORMAT, "kept": False, "engine": {"folder": "e", "files": {}}, "board": BOARD,
    "machine": {"cpu": "c", "cores": 2}, "versions": {"numpy": "2"}, "reference": {"threads": 2, "rounds": 4},
    "loads": [0, 0, 0, 1, 1, 1], "ms": ROWS, "yardstick_ms": ROWS,
}  # fmt: skip


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_baseline_is_one_line_or_has_a_verdict(tmp_path, count):
    path, here = tmp_path / "baseline.json", board()

    def judge(content: bytes) -> None:
        path.write_bytes(content)
        baseline = one_line_or(lambda: read_baseline(path))
        if baseline is not None:
            now = {**BASELINE, "ms": {step: [1000 * ms for ms in ROWS["engine"]] for step in baseline["ms"]},
                   "yardstick_ms": {step: ROWS["engine"] for step in baseline["ms"]}}  # fmt: skip
            notes(baseline.get("board"), here, here)
            for step in baseline["ms"]:
                verdict = compare(baseline, now, step, 0.05)
                sure = math.isfinite(verdict.low) and math.isfinite(verdict.high)
                assert verdict.slower is None or sure
                assert isinstance(baseline["versions"].get("numpy", ""), str)

    @run_of(count)
    @given(changed(BASELINE), damaged(json.dumps(BASELINE).encode()))
    def run(content, bytes_):
        judge(json.dumps(content).encode())
        judge(bytes_)

    run()
