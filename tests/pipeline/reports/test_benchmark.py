"""The race of a benchmark: turns, contenders in their own processes, the table; and one small real one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.reports.benchmark import command as benchmark
from effedge.pipeline.reports.benchmark import growth
from effedge.pipeline.reports.benchmark.contenders import Contender, rivals
from effedge.pipeline.reports.benchmark.race import Row, race, table


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    """A machine that was half as fast in the second round slowed both; the medians over all would say otherwise."""
    fast, slow = Row("fast", [[10, 10, 10], [20, 20, 20], [10, 10, 11]]), Row("slow", [[30] * 3, [60] * 3, [30] * 3])
    lines = table([slow, fast]).splitlines()
    assert lines[2] == "| slow | 30.0 | 30.0 | 3.00 |" and lines[3] == "| fast | 10.0 | 10.0 | 1.00 |"


@pytest.mark.slow
def test_the_plain_export_says_what_the_module_says(tmp_path):
    """The rivals must run the same model as the engines, not a broken one."""
    import onnxruntime as ort
    import torch

    from effedge.pipeline.reports.benchmark.contenders import module_and_input

    kinds = {one.kind: one for one in rivals("b0", "digits", tmp_path / "plain.onnx")}
    assert list(kinds) == ["eager", "compiled", "onnxruntime", "openvino"]
    module, image = module_and_input("b0", "digits")
    with torch.inference_mode():
        expected = module(image).numpy()
    session = ort.InferenceSession(tmp_path / "plain.onnx")
    [found] = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

    rows = race([kinds["eager"], kinds["onnxruntime"], kinds["openvino"]], rounds=2, runs=3)
    assert [row.name for row in rows] == ["PyTorch", "ONNX Runtime", "OpenVINO"]
    assert all(len(row.rounds) == 2 and len(row.rounds[0]) == 3 and row.best > 0 for row in rows)


def test_a_contender_that_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(UserError, match="effedge int8 cannot run: .*does not exist"):
        race([Contender("effedge int8", "engine", (str(tmp_path / "none"),))], rounds=1, runs=1)


@pytest.mark.parametrize("words", [["b9"], ["b0", "--rounds", "0"], ["b0", "--weights", "nowhere.pth"]])
def test_bad_input_is_one_line(monkeypatch, tmp_path, words):
    monkeypatch.setattr(sys, "argv", ["benchmark", *words, "--out", str(tmp_path)])
    with pytest.raises(UserError, match=r"did you mean 'b|--rounds 0|nowhere\.pth"):
        benchmark.main()


def test_growth_is_measured_for_each_model_and_batch(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    engines = []

    def build(request):
        source = request.source
        engines.append((source.model, source.batch))
        return Path(f"{source.model}-{source.batch[0]}")

    monkeypatch.setattr(growth, "run_chain", build)
    monkeypatch.setattr(growth, "in_own_process", lambda function, engine, runs: (10.0 * int(engine.name[-1]), 100.0))
    words = ["--models", "d0", "b0", "--batches", 1, 4, "--plot", tmp_path / "a.png", "--json", tmp_path / "a.json"]
    monkeypatch.setattr(sys, "argv", ["growth", *map(str, words)])
    growth.main()
    assert engines == [("d0", (1, 1, 1)), ("d0", (4, 4, 4)), ("b0", (1, 1, 1)), ("b0", (4, 4, 4))]
    assert "b0 batch 4: 40.0 ms a run, 10.0 ms an image, 100 MiB" in capsys.readouterr().out
    costs = json.loads((tmp_path / "a.json").read_text())["costs"]
    assert costs[1] == {"model": "d0", "batch": 4, "milliseconds": 40.0, "memory_mib": 100.0}
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800


@pytest.mark.slow
def test_a_benchmark_of_b0_from_the_command_line(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    words = [
        "b0",
        "--out",
        tmp_path,
        "--rounds",
        2,
        "--runs",
        5,
        "--json",
        tmp_path / "b.json",
        "--plot",
        tmp_path / "b.png",
    ]
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words), "-q"])
    benchmark.main()
    report = json.loads((tmp_path / "b.json").read_text())
    assert len(report["contenders"]) == 7 and (tmp_path / "b.png").stat().st_size > 5000
    assert capsys.readouterr().out.count("| effedge") == 3
