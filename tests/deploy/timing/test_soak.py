"""Tests the soak on an engine of OpenVINO, with a board whose temperature and throttling are made up."""

import tracemalloc

import pytest

from effedge.deploy.timing import soak as module
from effedge.deploy.timing.board import board
from effedge.deploy.timing.soak import LEAST_INTERVAL, soak


@pytest.fixture
def hot_board(monkeypatch, tmp_path):
    """A board that is a degree hotter at each reading, and slowed down from the third one on."""
    readings = []

    def read():
        count = len(readings)
        facts = board(tmp_path)
        throttled = ["cpu-throttle-alert"] if count >= 2 else []
        readings.append({**facts, "temperatures_c": {"GPU-therm": 50.0 + count, "CPU-therm": 20.0},
                         "throttled_by": throttled, "throttle_counts": {"over-current": count}})  # fmt: skip
        return readings[-1]

    monkeypatch.setattr(module, "board", read)
    return readings


@pytest.fixture
def report(build, hot_board):
    return soak(str(build()), [], 2.2 * LEAST_INTERVAL)


def test_it_runs_for_so_long_and_reads_the_board_at_equal_intervals(report, hot_board):
    assert 2.2 <= report["seconds"] < 4
    seconds = [row["second"] for row in report["readings"]]
    assert [round(second) for second in seconds[:2]] == [1, 2] and len(seconds) == 3
    assert report["runs"] == sum(row["runs"] for row in report["readings"]) > 100
    assert len(hot_board) == 5  # before, three, after


def test_a_reading_has_the_hottest_sensor_and_the_memory(report):
    assert [row["temperature_c"] for row in report["readings"]] == [51, 52, 53]
    assert all(row["memory_mib"] > 10 for row in report["readings"])


def test_what_slowed_the_board_is_said(report):
    assert "over-current: 4 times" in report["notes"]
    assert "throttled at 2 of 3 readings: cpu-throttle-alert" in report["notes"]


def test_the_drift_is_the_last_fifths_latency_over_the_firsts(build, hot_board, monkeypatch):
    class Slower:
        """Each run takes twice the milliseconds in the second half of the soak."""

        def __init__(self):
            self.time = 0.0

        def monotonic(self):
            return self.time

        def run(self):
            self.time += 0.1
            return {"engine": 10.0 if self.time < 6 else 20.0}

    work = Slower()
    monkeypatch.setattr(module, "make_workload", lambda *_, **__: work)
    monkeypatch.setattr(module, "warm_up", lambda run: run())
    monkeypatch.setattr(module, "time", work)
    report = soak("engine", [], 10)
    assert report["drift"] == pytest.approx(2.0, rel=1e-3)
    assert (report["p50"], report["p99"]) == pytest.approx((10.0, 20.0), rel=1e-3)


def test_its_memory_does_not_grow_with_the_runs(hot_board, monkeypatch):
    class Fast:
        """A run of 10 microseconds, so that there are 6 million a minute."""

        def __init__(self):
            self.time = 0.0
            self.memory = []

        def monotonic(self):
            return self.time

        def run(self):
            self.time += 1e-5
            if round(self.time * 1e5) % 20000 == 0:
                self.memory.append(tracemalloc.get_traced_memory()[0])
            return {"engine": 0.01 + self.time}

    work = Fast()
    monkeypatch.setattr(module, "make_workload", lambda *_, **__: work)
    monkeypatch.setattr(module, "warm_up", lambda run: run())
    monkeypatch.setattr(module, "time", work)
    tracemalloc.start()
    try:
        report = soak("engine", [], 2)
    finally:
        tracemalloc.stop()
    assert report["runs"] == pytest.approx(200_000, abs=2)
    assert max(work.memory[2:]) - work.memory[1] < 100_000  # 32 bytes a run would be five million
