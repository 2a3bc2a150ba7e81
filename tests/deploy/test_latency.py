"""effedge latency on small engines: what it measures, prints and writes, and what it refuses."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from effedge.deploy import latency
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.deploy.latency_test import circumstances
from effedge.deploy.timing.board import board
from effedge.deploy.timing.machine import field, machine, versions
from effedge.deploy.timing.percentiles import WINDOW, per_second, summarize, warm_up
from effedge.deploy.timing.synthetic_inputs import synthetic_image
from effedge.deploy.timing.workload import make_workload
from tests.deploy.boards import BOARDS, write_board

STEPS = ["decode", "prepare", "engine", "select"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (60 + index, 40), (255, 0, 0)).save(folder / f"{index}.jpg")
    return folder


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["latency", *map(str, words)])
    latency.main()


def test_the_json_holds_every_latency_and_figures_that_follow_from_them(monkeypatch, capsys, build, images, tmp_path):
    out = tmp_path / "latency.json"
    run_main(monkeypatch, build(), images, "--iterations", 30, "--json", out)
    report = json.loads(out.read_text())
    samples = report["samples_ms"]
    assert list(samples) == [*STEPS, "end to end"] and {len(row) for row in samples.values()} == {30}
    sums = np.sum([samples[name] for name in STEPS], axis=0)
    np.testing.assert_allclose(samples["end to end"], sums, atol=1e-3)
    for name, row in report["steps"].items():
        assert row["p90"] == pytest.approx(np.quantile(samples[name], 0.9), abs=2e-3)
        assert row["min"] <= row["p50"] <= row["p90"] <= row["p99"]
        assert row["per_second"] == pytest.approx(1000 / np.mean(samples[name]), rel=0.01)
    assert report["batch"] == 1 and report["images"] == 3 and report["runs"] == 30
    assert report["throughput"]["per_second"] > 0 and report["throughput"]["side_by_side"] >= 1
    assert {"numpy", "openvino", "python"} <= set(report["versions"]) and report["machine"]["cores"] >= 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in samples) and "a second" in printed and str(out) in printed


@pytest.mark.parametrize("compiled", [True, False])
def test_who_does_letterbox_and_nms_is_told(monkeypatch, capsys, build, tmp_path, compiled):
    loader = "effedge.deploy.native.letterbox_nms.library.load_letterbox_nms"
    monkeypatch.setattr(loader, lambda: object() if compiled else None)
    out = tmp_path / "latency.json"
    run_main(monkeypatch, build(), "--iterations", 2, "--no-throughput", "--json", out)
    assert json.loads(out.read_text())["letterbox_and_nms"] == ("C++" if compiled else "Pillow and NumPy")
    assert ("with a C++ compiler (g++) they would be faster" in capsys.readouterr().out) != compiled
    run_main(monkeypatch, build("classification", name="c"), "--iterations", 2, "--no-throughput", "--json", out)
    assert json.loads(out.read_text())["letterbox_and_nms"] is None


def test_why_a_front_is_not_computed_is_told(monkeypatch, capsys, build, tmp_path):
    out, engine = tmp_path / "latency.json", build()
    run_main(monkeypatch, engine, "--iterations", 2, "--no-throughput", "--json", out)
    assert json.loads(out.read_text())["cpu_blocks"] is None and "first blocks" not in capsys.readouterr().out
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["backend"]["cpu_blocks"] = {"format": 1, "file": "cpu_blocks.npz", "cpu": {"model": "another"}}
    (engine / "cpu_blocks.npz").write_bytes(b"")
    manifest["files"]["cpu_blocks.npz"] = sha256(engine / "cpu_blocks.npz")
    (engine / "manifest.json").write_text(json.dumps(manifest))
    run_main(monkeypatch, engine, "--iterations", 2, "--no-throughput", "--json", out)
    assert json.loads(out.read_text())["cpu_blocks"] == "the engine was built on another CPU"
    told = "the first blocks are not computed in C++, as the engine was built on another CPU: that is slower"
    assert told in capsys.readouterr().out
    assert f"note: {told}" in circumstances(str(engine), {"versions": {}})


def test_raw_is_one_number_a_line(monkeypatch, capsys, build):
    engine = build()
    for more in ([], ["--end-to-end"]):
        run_main(monkeypatch, engine, "--raw", "--iterations", 7, *more)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 7 and all(float(line) > 0 for line in lines)


def test_a_batch_is_timed_as_a_whole(build):
    work = make_workload(build(batch=(1, 2, 4)), [])
    assert work.batch == 2 and list(work.run()) == STEPS[1:]
    assert make_workload(build(batch=(1, 2, 4), name="more"), [], 3).batch == 3
    with pytest.raises(UserError, match=r"batch 5 was asked for, '.*' takes 1 to 4"):
        make_workload(build(batch=(1, 2, 4), name="too-many"), [], 5)


def test_an_engine_of_arrays_has_the_engine_step_alone(monkeypatch, capsys, adder, images):
    run_main(monkeypatch, adder, "--iterations", 5)
    printed = capsys.readouterr().out
    assert "engine " in printed and "end to end" not in printed and "throughput" not in printed
    with pytest.raises(UserError, match="takes arrays, not images"):
        run_main(monkeypatch, adder, images)


def test_the_synthetic_image_is_always_the_same_and_no_flat_one():
    assert np.array_equal(synthetic_image(), synthetic_image()) and synthetic_image().std() > 30


def test_the_histogram_is_an_image(monkeypatch, build, tmp_path):
    pytest.importorskip("matplotlib")
    run_main(monkeypatch, build("classification"), "--iterations", 5, "--plot", tmp_path / "latency.png")
    with Image.open(tmp_path / "latency.png") as image:
        assert image.width > 500
    with pytest.raises(UserError, match="of no kind that can be drawn"):
        run_main(monkeypatch, build(name="again"), "--iterations", 2, "--plot", tmp_path / "latency.docx")
    assert not list(tmp_path.glob("*.docx*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        (["{engine}", "nowhere.jpg"], "no such image or folder: 'nowhere.jpg'"),
        (["{engine}", "{empty}"], "empty"),
        (["{engine}", "--json", "{empty}"], "cannot write"),
        (["{engine}", "--json", "{empty}/none/a.json"], "in a folder that exists"),
        (["{engine}", "--batch", "2"], "takes 1"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, build, tmp_path, words, expected):
    (tmp_path / "empty").mkdir()
    places = {"engine": build(), "empty": tmp_path / "empty"}
    with pytest.raises(UserError, match=expected):
        run_main(monkeypatch, *(word.format(**places) for word in words))


@pytest.mark.parametrize(
    "words", [["--iterations", "0"], ["--end-to-end"], ["--raw", "--json", "a.json"], ["--iterations", "x"]]
)
def test_options_that_make_no_sense_are_refused_at_once(monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, "engine", *words)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_percentiles():
    assert summarize(list(range(101))) == {"p50": 50, "p90": 90, "p99": 99, "min": 0, "mean": 50}
    assert per_second([10, 30], 4) == 200


def test_warm_is_when_two_windows_agree():
    falling = iter([100.0] * 5 + [50.0] * 5 + [20.0] * 5 + [20.1] * 5 + [1.0] * 5)
    assert warm_up(lambda: next(falling)) == 4 * WINDOW
    alternating = iter([value for _ in range(500) for value in [10.0] * 5 + [20.0] * 5])
    assert warm_up(lambda: next(alternating)) == 200


def test_the_board_before_and_after_is_in_the_report_and_in_the_table(monkeypatch, capsys, build, tmp_path):
    orin = write_board(tmp_path / "orin", BOARDS["orin"])
    readings = iter([board(orin), {**board(orin), "throttle_counts": {"under voltage (oc1)": 2}}])
    monkeypatch.setattr("effedge.deploy.timing.board.board", lambda: next(readings))
    run_main(monkeypatch, build(), "--iterations", 5, "--json", tmp_path / "latency.json")
    found = json.loads((tmp_path / "latency.json").read_text())["board"]
    assert found["before"]["throttle_counts"]["under voltage (oc1)"] == 0
    assert found["after"]["power_mode"] == {"id": 2, "name": "MAXN_SUPER"}
    printed = capsys.readouterr().out
    assert "power mode MAXN_SUPER (2), Jetson Linux R36.4.3; CPU at 1728 MHz" in printed
    assert "NOT UNDISTURBED, these figures may be too slow: under voltage (oc1): 2 times; gpu-throttle" in printed


def test_the_machine_is_described(tmp_path):
    assert machine()["cpu"] and machine()["memory_mib"] > 100
    assert field("a\t: 1\nmodel name\t: Chip: fast\nmodel name: other", "model name") == "Chip: fast"
    assert field("", "model name") == ""
    assert set(versions(["numpy", "no-such-package-here"])) == {"python", "numpy"}
