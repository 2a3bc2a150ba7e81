"""effedge latency-test and its pytest plugin: recording, verdicts, exit status, refusals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effedge.deploy import latency_test
from effedge.deploy.common.cli import UserError
from effedge.deploy.latency_test import check, exit_status, read_baseline, record
from effedge.deploy.timing import interleaved, regression
from effedge.deploy.timing.board import board
from effedge.deploy.timing.interleaved import measure
from effedge.deploy.timing.reference import Reference, fitted_reference
from effedge.deploy.timing.regression import Verdict
from tests.deploy.boards import BOARDS, write_board

ROOT = Path(__file__).resolve().parents[2]
RUNS = 20


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    """And all of them count: the machine that runs the tests may be busy, and tests/deploy/timing/test_regression.py
    has what is then done. The engines below are made many times as fast or slow, so that no noise hides it."""
    monkeypatch.setattr(interleaved, "RUNS", RUNS)
    monkeypatch.setattr(regression, "WIDEST", 1e9)


@pytest.fixture
def baseline(build, tmp_path):
    """A small engine's folder and its recorded baseline, without the engine."""
    folder = build(size=(256, 256))
    record(str(folder), tmp_path / "baseline.json", keep=False)
    return folder, tmp_path / "baseline.json"


@pytest.fixture
def kept(build, tmp_path):
    """The same with the engine."""
    folder = build(size=(256, 256))
    record(str(folder), tmp_path / "kept.json")
    return folder, tmp_path / "kept.json"


def scaled(path, factor):
    """The baseline as an engine `factor` times as slow would have left it."""
    content = json.loads(path.read_text())
    content["ms"] = {step: [factor * value for value in row] for step, row in content["ms"].items()}
    path.write_text(json.dumps(content))


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["latency_test", *map(str, words)])
    latency_test.main()


def test_a_measurement_is_interleaved_with_the_reference(build):
    measured = measure(str(build()), {"threads": 2, "rounds": 5})
    assert measured["reference"] == {"threads": 2, "rounds": 5}
    for name in ("yardstick_ms", "ms"):
        assert {step: len(row) for step, row in measured[name].items()} == {"engine": RUNS, "end to end": RUNS}
    assert measured["loads"] == sorted(measured["loads"]) and set(measured["loads"]) == set(range(interleaved.LOADS))
    assert all(whole > engine for engine, whole in zip(measured["ms"]["engine"], measured["ms"]["end to end"]))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system places threads as it likes")
def test_each_thread_of_the_reference_stays_on_a_core_and_the_caller_does_not():
    before, made = os.sched_getaffinity(0), Reference(2, 4)
    cores = [pool.submit(os.sched_getaffinity, 0).result() for pool in made.pools]
    made.close()
    usable = sorted(before)
    assert cores == [{usable[0]}, {usable[1 % len(usable)]}] and os.sched_getaffinity(0) == before


def test_an_engine_of_arrays_is_measured_too(adder):
    assert list(measure(str(adder))["ms"]) == ["engine"]


def test_against_its_own_baseline_it_is_not_slower_and_against_a_much_quicker_one_it_is(baseline):
    folder, path = baseline
    scaled(path, 10.0)
    assert not any(found.slower for found in check(str(folder), read_baseline(path), 0.05).values())
    scaled(path, 1 / 100)
    found = check(str(folder), read_baseline(path), 0.05)
    assert exit_status(found) == 1 and all(verdict.ratio > 1.5 for verdict in found.values())


def simulated(factor, noise=0.0):
    """A measurement of an engine `factor` times as slow as the yardstick, in six loads of 20 runs."""
    random = np.random.default_rng(0)
    engine = 3.0 * factor * (1 + noise * np.repeat(random.normal(size=6), 20))
    rows = {"yardstick_ms": [3.0] * 120, "ms": engine.tolist()}
    steps = ("engine", "end to end")
    return {
        "loads": np.repeat(range(6), 20).tolist(),
        **{name: dict.fromkeys(steps, row) for name, row in rows.items()},
    }


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([simulated(1.0)], 0),
        ([simulated(1.2), *[simulated(0.9)] * 3], 0),  # all that was measured counts
        ([simulated(1.2), simulated(1.2)], 1),
        ([*[simulated(1.055, 0.05)] * 3, simulated(1.12)], 0),  # only the last looks slower
        ([simulated(1.05, 0.05)] * 4, 0),  # undecided to the end
    ],
)
def test_it_measures_again_until_it_is_sure(monkeypatch, kept, answers, status):
    folder, path = kept
    left = list(answers)
    monkeypatch.setattr(interleaved, "measure_beside", lambda *_: left.pop(0))
    assert exit_status(check(str(folder), read_baseline(path), 0.05)) == status and not left


def test_the_engine_that_was_kept_is_the_yardstick(kept, build, capsys, monkeypatch):
    folder, path = kept
    names = {"engine.xml", "engine.bin", "manifest.json"} & {one.name for one in folder.iterdir()}
    assert {one.name for one in path.with_suffix(".engine").iterdir()} == names
    scaled(path, 1 / 100)  # what the reference would tell
    run_main(monkeypatch, folder, "--baseline", path, "--tolerance", 100)
    assert "note" not in capsys.readouterr().out
    slow = build(size=(2048, 2048), name="slow")
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, slow, "--baseline", path)
    assert stopped.value.code == 1 and capsys.readouterr().out.count("SLOWER") == 2
    assert {one.name for one in path.with_suffix(".engine").iterdir()} == names  # nothing was compiled into it


def test_with_another_runtime_the_reference_is_asked_too(kept, capsys, monkeypatch):
    folder, path = kept
    content = json.loads(path.read_text())
    content["versions"]["openvino"] = "2019.1"
    path.write_text(json.dumps(content))
    scaled(path, 1 / 100)
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, folder, "--baseline", path, "--tolerance", 100)
    lines = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 1
    assert lines[0].startswith("note: openvino was 2019.1 when the baseline was recorded, now it is 20")
    assert [line.partition(",")[0] for line in lines[1:]] == [
        "engine: ok", "end to end: ok", "engine by the reference: SLOWER", "end to end by the reference: SLOWER",
    ]  # fmt: skip


def test_without_the_engine_the_reference_is_asked_and_a_line_says_so(kept, capsys, monkeypatch):
    folder, path = kept
    path.with_suffix(".engine").rename(path.with_suffix(".elsewhere"))
    scaled(path, 10.0)
    run_main(monkeypatch, folder, "--baseline", path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: the baseline has no engine beside it") and "ok, 0." in lines[1]


def test_an_engine_that_another_baseline_kept_is_refused(kept, build):
    _, path = kept
    record(str(build("classification", name="other")), path.with_name("other.json"))
    shutil.rmtree(path.with_suffix(".engine"))
    path.with_name("other.engine").rename(path.with_suffix(".engine"))
    with pytest.raises(UserError, match=r"kept.engine' is not the engine that '.*kept.json' was recorded of: record"):
        read_baseline(path)


def test_the_command_records_and_tells_by_its_exit_status(monkeypatch, capsys, build, tmp_path):
    folder, path = build(size=(256, 256)), tmp_path / "d0.json"
    run_main(monkeypatch, folder, "--baseline", path, "--record", "--no-engine")
    assert "recorded 40 runs" in capsys.readouterr().out and not path.with_suffix(".engine").exists()
    assert {"power_mode", "cpu", "gpus"} <= set(json.loads(path.read_text())["board"])
    scaled(path, 10.0)
    run_main(monkeypatch, folder, "--baseline", path)
    assert capsys.readouterr().out.count("ok, 0.") == 2
    scaled(path, 1 / 100)
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, folder, "--baseline", path)
    assert stopped.value.code == 1 and capsys.readouterr().out.count("SLOWER") == 2


def test_another_power_mode_than_the_baselines_is_noted_before_the_verdict(monkeypatch, capsys, build, tmp_path):
    now = board(write_board(tmp_path / "xavier", BOARDS["xavier"]))
    engine, one = build(), {"engine": [1.0, 1.0]}
    content = {
        "format": latency_test.FORMAT,
        "engine": {"folder": "engine", "files": {}},
        "machine": {"cpu": "a CPU", "cores": 2},
        "reference": {"threads": 1, "rounds": 1},
        "loads": [0, 1],
    }
    content.update(yardstick_ms=one, ms=one, versions=latency_test.runtime(), kept=True)
    content["board"] = {**now, "power_mode": {"id": 0, "name": "MAXN"}}
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(content))
    path.with_suffix(".engine").mkdir()
    monkeypatch.setattr(latency_test, "read_manifest", lambda folder: {"files": {}})
    monkeypatch.setattr(latency_test, "board", lambda: now)
    monkeypatch.setattr(latency_test, "check", lambda *_: {"engine": Verdict(1, 1, 1, 12, False)})
    run_main(monkeypatch, engine, "--baseline", path)
    assert capsys.readouterr().out.splitlines() == [
        "note: power mode was MAXN (0) when the baseline was recorded, now it is MODE_15W (2)",
        "engine: ok, 1.000 times the baseline (1.000 to 1.000 by 12 loads; more than 1.050 is slower)",
    ]
    del content["board"]  # as an earlier effedge recorded it
    path.write_text(json.dumps(content))
    run_main(monkeypatch, engine, "--baseline", path)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_slower_counts_before_cannot_tell():
    slow, unknown, ok = (Verdict(1, 1, 1, 12, slower) for slower in (True, None, False))
    assert exit_status({"a": ok, "b": unknown, "c": slow}) == 1
    assert exit_status({"a": ok, "b": unknown}) == 3
    assert exit_status({"a": ok}) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda it: it["machine"].update(cpu="Other chip"), "recorded on cpu Other chip, this is .*: record one"),
        (lambda it: it["machine"].update(cores=999), "recorded on cores 999"),
        (lambda it: it.update(format=9), "of format 9, this effedge reads 5"),
        (lambda it: it.update(ms={}), "is no latency baseline"),
        (lambda it: it["ms"].update(engine=[1.0]), "is no latency baseline"),
        (lambda it: it.pop("reference"), "is no latency baseline"),
        (
            lambda it: [it[name].pop("end to end") for name in ("ms", "yardstick_ms")],
            "the baseline times engine, the engine has engine, end to end",
        ),
    ],
)
def test_a_baseline_of_something_else_is_one_line(baseline, change, expected):
    folder, path = baseline
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=expected):
        check(str(folder), read_baseline(path), 0.05)


def test_no_baseline_or_a_damaged_one_or_no_place_for_one_is_one_line(tmp_path, build):
    with pytest.raises(UserError, match="record one first, with --record"):
        read_baseline(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"format": 1, "eng')
    with pytest.raises(UserError, match="is damaged"):
        read_baseline(tmp_path / "cut.json")
    with pytest.raises(UserError, match="in a folder that exists"):
        record(str(build()), tmp_path / "none" / "a.json")


def test_a_machine_too_busy_records_nothing(monkeypatch, build, tmp_path):
    made = []

    class Restless(Reference):
        """Of each load another speed."""

        def __init__(self, threads, rounds):
            made.append(self)
            super().__init__(threads, rounds)

        def time(self):
            return super().time() * 4 ** (len(made) % 3)

    monkeypatch.setattr(regression, "WIDEST", 0.15)
    monkeypatch.setattr(interleaved, "Reference", Restless)
    with pytest.raises(UserError, match="loads of the engine are from .* too busy to record"):
        record(str(build()), tmp_path / "a.json")
    assert not list(tmp_path.glob("a.*"))


def test_what_is_no_engine_is_not_replaced_by_one(build, tmp_path):
    (tmp_path / "a.engine").write_text("somebody's TensorRT plan")
    with pytest.raises(UserError, match=r"a.engine' is no engine's folder, .*: move it away"):
        record(str(build()), tmp_path / "a.json")
    assert (tmp_path / "a.engine").read_text() == "somebody's TensorRT plan"


def test_the_reference_takes_as_long_as_asked():
    made = fitted_reference(1, 10.0)
    assert 5 < sorted(made.time() for _ in range(15))[3] < 25
    made.close()


def plugin(folder, path, *words):
    """pytest with the plugin on a file of one test that uses the fixture: (exit status, output)."""
    (path.parent / "test_mine.py").write_text(
        "from effedge.deploy.timing import regression\nregression.WIDEST = 1e9\n"
        f"def test_mine(check_latency):\n    check_latency({str(folder)!r}, {str(path)!r}, tolerance=5)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--rootdir", path.parent, *words]
    command += ["-p", "effedge.deploy.pytest_latency"]  # by itself, it would come with the installed package
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [str(word) for word in [*command, path.parent / "test_mine.py"]],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_the_pytest_plugin_adds_a_test_and_a_fixture(baseline):
    folder, path = baseline
    scaled(path, 10.0)
    status, output = plugin(folder, path, f"--latency-baseline={path}")
    assert status == 0 and "2 passed" in output, output
    scaled(path, 1 / 100)
    status, output = plugin(folder, path, f"--latency-baseline={path}", f"--latency-engine={folder}")
    assert status == 1 and "2 failed" in output and "SLOWER" in output, output
    assert f"latency[{path}]" in output
    status, output = plugin(folder, path, "--latency-baseline=none.json", "--deselect", "test_mine.py")
    assert status == 1 and "no baseline 'none.json': record one first" in output, output
