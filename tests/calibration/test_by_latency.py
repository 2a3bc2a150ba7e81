"""Checks the choice by latency: with races whose outcome is known, and once with a real race."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from effedge.calibration import by_latency
from effedge.calibration.by_latency import FLOAT, INT8, UNKNOWN, by_latency_stage, choose_by_latency, verdict
from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.unquantize import int8_layers
from effedge.calibration.post_training import quantize
from effedge.calibration.report import read_report
from effedge.calibration.search import layer_groups
from effedge.calibration.sensitivity import rank_groups
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from effedge.deploy.timing import interleaved
from effedge.deploy.timing.comparison import Interval
from effedge.engines.build import build_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.targets import TARGETS
from tests.calibration import networks

DEPTHWISE = ["block1_depthwise", "block2_depthwise"]


@pytest.fixture
def int8(load, samples) -> ir.Model:
    model, _ = quantize(load(networks.classifier()), samples, Settings("minmax", correction=False, float_share=0.0))
    return onnx_file.prepare(ir.from_proto(ir.to_proto(model)))


@pytest.fixture
def by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round alone."""
    monkeypatch.setattr(layer_groups, "reading_groups", lambda model: {})


def racing(saved: Callable[[str], float], noise: float = 0.01, asked: list | None = None):
    """A race of engines that take 100 ms in 16 bit, less what each layer saves by INT8."""

    def milliseconds(model: ir.Model) -> float:
        return 100 - sum(saved(node.name or "") for node in int8_layers(model))

    def run(first: ir.Model, second: ir.Model) -> Interval:
        ratio = milliseconds(first) / milliseconds(second)
        if asked is not None:
            asked.append(ratio)
        return Interval(ratio, ratio - noise, ratio + noise)

    return run


def saving(name: str) -> float:
    """1x1 convolutions are faster in INT8, depthwise ones slower, the rest is the same."""
    return -2.0 if "depthwise" in name else 0.0 if name in ("stem", "logits") else 3.0


def test_what_is_not_faster_goes_to_16_bit_and_says_why(int8, by_kind) -> None:
    changed, report = choose_by_latency(int8, racing(saving))
    left = [node.name for node in int8_layers(changed)]
    assert left == ["block1_expand", "block1_project", "block2_expand", "block2_project", "head"]
    assert {row["group"]: row["kept"] for row in report["by_latency"]["groups"]} == {
        "matrix products": FLOAT,
        "convolutions on the image on 16 x 16": FLOAT,
        "depthwise convolutions on 16 x 16": FLOAT,
        "1x1 convolutions on 16 x 16": INT8,
        "widening 1x1 convolutions on 16 x 16": INT8,
    }
    # 5 x 3 ms saved, and no longer 2 x 2 ms lost: 85 ms instead of 89.
    assert report["by_latency"]["taken"] and report["by_latency"]["ratio"] == pytest.approx(85 / 89)
    for name in [*DEPTHWISE, "stem", "logits"]:
        assert report["float_layers"][name].startswith("INT8 is not faster here: ")
    assert "depthwise convolutions on 16 x 16 take 0.955 times as long" in report["float_layers"]["block1_depthwise"]
    # Thousands of multiply-adds: 368.6 in 1x1, 147.5 depthwise, 55.3 in the stem, 0.1 in logits, 0.5 in the gates.
    assert report["int8_layers"] == 5 and report["int8_macs"] == pytest.approx(368.6 / 572, abs=1e-3)
    assert json.loads(changed.metadata_props[CALIBRATION_KEY]) == report
    kept = {name: row["kept"] for row in rank_groups(report) for name in row["layers"]}
    assert kept["head"] == "INT8" and kept["block1_depthwise"].startswith("16 bit: INT8 is not faster here")


def test_each_group_races_beside_what_was_decided_before(int8, by_kind) -> None:
    asked: list[float] = []
    choose_by_latency(int8, racing(saving, asked=asked))
    assert asked == pytest.approx([1, 1, 85 / 89, 91 / 85, 94 / 85, 85 / 89])


def test_where_int8_is_faster_everywhere_nothing_changes(int8, by_kind) -> None:
    before = ir.to_proto(int8).graph.SerializeToString()
    changed, report = choose_by_latency(int8, racing(lambda name: 5.0))
    assert ir.to_proto(changed).graph.SerializeToString() == before
    assert [row["kept"] for row in report["by_latency"]["groups"]] == [INT8] * 5 and not report["by_latency"]["taken"]
    assert by_latency.describe(report).endswith("by latency: INT8 is faster for every group")


def test_on_a_machine_too_noisy_to_tell_all_stays_in_int8(int8, by_kind) -> None:
    changed, report = choose_by_latency(int8, racing(lambda name: 0.01, noise=0.2))
    assert {row["kept"] for row in report["by_latency"]["groups"]} == {UNKNOWN}
    assert "too noisy to tell of 5 groups" in by_latency.describe(
        report
    ) and "is faster for every" not in by_latency.describe(report)
    assert len(int8_layers(changed)) == len(int8_layers(int8))


def test_losses_below_the_noise_that_add_up_are_given_back(int8, by_kind) -> None:
    """Each of three groups saves 0.3 of 74 ms, which a noise of 1% hides; all of them together do not hide."""
    small = racing(lambda name: {"stem": 0.3, "logits": 0.3, **dict.fromkeys(DEPTHWISE, 0.15)}.get(name, 5.0))
    changed, report = choose_by_latency(int8, small)
    assert [row["kept"] for row in report["by_latency"]["groups"]] == [FLOAT, FLOAT, FLOAT, INT8, INT8]
    [outcome] = report["by_latency"]["rounds"]
    assert not report["by_latency"]["taken"] and outcome["low"] > 1 and outcome["layers"] == 4
    assert len(int8_layers(changed)) == len(int8_layers(int8)) and "stem" not in report["float_layers"]
    assert "they stay in INT8" in by_latency.describe(report) and "is faster for every" not in by_latency.describe(
        report
    )


def test_an_outcome_that_is_too_noisy_to_tell_is_given_back(int8, by_kind) -> None:
    """Groups that were told of one by one, and then a noisier minute for the whole."""
    calm, races = racing(saving), []

    def later_noisy(first: ir.Model, second: ir.Model) -> Interval:
        races.append(calm(first, second))
        return races[-1] if len(races) <= 5 else Interval(1.018, 0.957, 1.054)

    changed, report = choose_by_latency(int8, later_noisy)
    assert len(races) == 6
    assert not report["by_latency"]["taken"] and report["by_latency"]["rounds"][0]["ratio"] == 1.018
    assert len(int8_layers(changed)) == len(int8_layers(int8))


def test_the_last_group_stays_in_int8_unraced(int8, by_kind) -> None:
    """Without it there would be nothing to build in INT8."""
    asked: list[float] = []
    changed, report = choose_by_latency(int8, racing(lambda name: -1.0, asked=asked))
    assert [node.name for node in int8_layers(changed)] == ["block1_expand", "block2_expand", "head"]
    assert len(asked) == 5 and report["by_latency"]["taken"] and report["by_latency"]["ratio"] < 1


def sizes(model: ir.Model) -> dict[str, list[str]]:
    """The stem, and with it half of the rest, as if they read the larger maps."""
    return {
        "layers that read 32 x 32": ["stem", "block1_expand", "block1_depthwise"],
        "layers that read 16 x 16": ["head"],
    }


def test_neighbours_go_together_that_would_not_one_by_one(int8, monkeypatch) -> None:
    """With 8 bits on one side only, what is between them is rounded for nothing."""
    monkeypatch.setattr(layer_groups, "reading_groups", sizes)
    three = sizes(int8)["layers that read 32 x 32"]

    def milliseconds(model: ir.Model) -> float:
        left = {node.name for node in int8_layers(model)}
        together = sum(name in left for name in three)
        return 100 - len(left) + {0: 0, 1: 6, 2: 7, 3: 8}[together]

    def run(first: ir.Model, second: ir.Model) -> Interval:
        ratio = milliseconds(first) / milliseconds(second)
        return Interval(ratio, ratio - 0.002, ratio + 0.002)

    changed, report = choose_by_latency(int8, run)
    assert {node.name for node in int8_layers(changed)} == {node.name for node in int8_layers(int8)} - set(three)
    first, *others = report["by_latency"]["groups"]
    assert first["kept"] == FLOAT and first["round"] == "by the size that is read" and first["layers"] == three
    assert {row["kept"] for row in others} == {INT8}
    raced = [name for row in others if row["round"] == "by kind" for name in row["layers"]]
    assert raced and not set(raced) & set(three), "what has gone is not tried again"
    [outcome] = report["by_latency"]["rounds"]
    assert outcome["taken"] and report["by_latency"]["ratio"] == outcome["ratio"] == pytest.approx(94 / 99, abs=0.02)
    assert "layers that read 32 x 32 take" in report["float_layers"]["stem"]


def test_a_second_round_that_loses_leaves_the_first_ones_outcome(int8, monkeypatch) -> None:
    monkeypatch.setattr(layer_groups, "reading_groups", sizes)
    three = sizes(int8)["layers that read 32 x 32"]
    told = racing(lambda name: -2.0 if name in three else 0.0)
    left: list[tuple[int, int]] = []

    def run(first: ir.Model, second: ir.Model) -> Interval:
        left.append((len(int8_layers(first)), len(int8_layers(second))))
        return Interval(1.1, 1.09, 1.11) if left[-1] == (1, 5) else told(first, second)

    changed, report = choose_by_latency(int8, run)
    assert left[2] == (5, 9) and left[-1] == (1, 5), "the outcomes of both rounds"
    assert [row["taken"] for row in report["by_latency"]["rounds"]] == [True, False]
    gone = {node.name for node in int8_layers(int8)} - {node.name for node in int8_layers(changed)}
    assert gone == {*three, "head"} and report["by_latency"]["ratio"] < 1


def test_the_verdict_by_the_interval() -> None:
    assert verdict(Interval(1.05, 1.01, 1.09)) == INT8
    assert verdict(Interval(1.004, 0.98, 1.03)) == FLOAT
    assert verdict(Interval(1.006, 0.98, 1.03)) == INT8, "noise, perhaps; but of several groups it adds up"
    assert verdict(Interval(0.8, 0.7, 0.9)) == FLOAT, "wide, but all of it below 1"
    assert verdict(Interval(1.0, 0.9, 1.1)) == UNKNOWN


@pytest.fixture
def file(int8, tmp_path: Path) -> Path:
    int8.metadata_props["effedge"] = json.dumps(networks.SPEC)
    onnx_file.save(int8, tmp_path / "int8.onnx")
    return tmp_path / "int8.onnx"


def test_the_stage_races_engines_here_and_the_manifest_says_what_was_kept(
    monkeypatch, capsys, file, tmp_path, by_kind
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(interleaved, "LOADS", 2)
    monkeypatch.setattr(interleaved, "RUNS", 6)
    real, seen = interleaved.compare_engines, []

    def decided(first: Path, second: Path) -> Interval:
        """The real race, but the outcome of a quiet machine for the depthwise group."""
        seen.append(real(first, second))
        return Interval(0.9, 0.89, 0.91) if len(seen) == 3 else Interval(1.1, 1.09, 1.11)

    monkeypatch.setattr(interleaved, "compare_engines", decided)
    out = tmp_path / "faster.onnx"
    assert by_latency_stage(file, out, TARGETS["cpu"])
    assert len(seen) == 5 and all(0 < one.low <= one.ratio <= one.high for one in seen)
    said = capsys.readouterr().out
    assert (
        "by kind, with all of these 2 layers in 16 bit: 0.900 times as long as without (0.890 to 0.910): they go"
        in said
    )
    assert "by latency: 0.900 times as long as all of INT8 (0.890 to 0.910); " in said
    assert not by_latency_stage(file, out, TARGETS["cpu"]), "up to date"
    (tmp_path / "engine").mkdir()
    build_engine(out, tmp_path / "engine", precision="int8", target=TARGETS["cpu"])
    precision = json.loads((tmp_path / "engine" / "manifest.json").read_text())["precision"]
    assert precision["kept"] == read_report(out)[1]["float_layers"]
    assert precision["kept"]["block1_depthwise"].startswith("INT8 is not faster here")
    built = {row["name"]: row["precision"] for row in precision["layers"]}
    assert built["block1_depthwise"] != "int8" == built["block1_expand"]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({"swish": {"form": "exact"}, "float_parts": {"precision": "f32"}}, ("fp32", "exact", "off")),
        (
            {
                "swish": {"form": "polynomial"},
                "float_parts": {"precision": "bf16"},
                "backend": {"cpu_blocks": {"blocks": 11}},
            },
            ("fp16", "polynomial", "11"),
        ),
        ({}, ("auto", "auto", "off")),
    ],
)
def test_all_engines_have_what_was_chosen_for_the_first(tmp_path, manifest, expected) -> None:
    """Otherwise each build would race them anew, and might decide otherwise."""
    least = {"format": 1, "spec": {}, "backend": {}, "engine": "engine.xml", "files": {"engine.xml": ""}}
    (tmp_path / "manifest.json").write_text(json.dumps({**least, **manifest}))
    chosen = by_latency.build_options_of([(None, tmp_path), (None, tmp_path / "never read")])
    assert (chosen.float_parts, chosen.swish, chosen.cpu_blocks) == expected
    assert by_latency.build_options_of([]) == BuildOptions()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{there}/none.onnx"], "no ONNX file at"),
        (["{there}/int8.onnx", "--target", "cpi"], "did you mean 'cpu'"),
        (["{there}/int8.onnx", "--target", "rtx"], "no NVIDIA GPU answers here"),
        (["{there}/float.onnx", "--target", "cpu"], "has no report of an INT8 calibration"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, file, tmp_path, words, said) -> None:
    pytest.importorskip("tensorrt_rtx")
    networks.classifier().save(tmp_path / "float.onnx", spec=networks.SPEC)
    monkeypatch.setattr(by_latency, "runs_here", lambda target: target.name == "cpu")
    given = [word.format(there=tmp_path) for word in words]
    monkeypatch.setattr(sys, "argv", ["effedge by-latency", *given, "--out", str(tmp_path / "out.onnx"), "-q"])
    with pytest.raises(UserError, match=said):
        by_latency.main()
    assert not (tmp_path / "out.onnx").exists()
