"""Fine-tuning brings INT8 back to the float model, is kept only then, and refuses what it cannot use."""

import json
from functools import partial

import numpy as np
import onnx.parser
import pytest
import torch

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.post_training import quantize
from effedge.calibration.search.trials import Trials
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY, SPEC_KEY
from effedge.pipeline.training.finetune import command as command
from effedge.pipeline.training.finetune.distill import (
    candidate_tensors,
    classification_loss,
    detection_loss,
    error_over_variance,
    find_heads,
    overlap,
    selection_loss,
)
from effedge.pipeline.training.finetune.graph import OnnxModule
from effedge.pipeline.training.finetune.tune import schedule, tune
from effedge.pipeline.training.finetune.tuning import Tuning
from tests.calibration import networks

SPEC = {"model": "net", "weights": "random", "task": "classification", "labels": [], "input": {"batch": [1, 1, 1]}}
SAMPLES = networks.as_samples(networks.feeds(24))
UNSEEN = networks.as_samples(networks.feeds(8, seed=99))


@pytest.fixture
def teacher(load):
    return load(networks.classifier(), SPEC)


@pytest.fixture
def coarse(teacher):
    """INT8 whose steps of weights are sixteen times too large: 4 bits, which rounding alone cannot hold."""
    int8, _ = quantize(teacher, SAMPLES, Settings("minmax", correction=False, float_share=0))
    for name, step in OnnxModule(int8, ["logits"]).scales.items():
        value = int8.graph.initializers[name]
        value.const_value = onnx_file.ir.tensor(np.rint(value.const_value.numpy() / 16).astype(np.int8), name=name)
        scale = next(each.inputs[1] for each in int8.graph if each.inputs[0] is value)
        scale.const_value = onnx_file.ir.tensor(step.numpy().ravel() * 16, name=scale.name)
    return int8


def test_it_recovers_most_of_what_int8_lost_on_samples_that_it_never_saw(teacher, coarse):
    trials = Trials(teacher, UNSEEN)
    before = trials.output_error(coarse)
    tune(teacher, coarse, SAMPLES, Tuning(steps=60, batch=2))
    assert trials.output_error(coarse) < 0.5 * before


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05])
def test_a_short_run_does_not_end_worse_than_it_began(teacher, coarse, rate):
    """In units of a tensor's largest value a channel of small weights moved by several times its own size, and after 30
    steps the error was sixty times that before."""
    trials = Trials(teacher, UNSEEN)
    before = trials.output_error(coarse)
    tune(teacher, coarse, SAMPLES, Tuning(steps=30, batch=2, rate=rate))
    assert trials.output_error(coarse) < before


def assert_near(units, expected):
    """Compares powers of two with the numbers that they stand for."""
    assert np.abs(np.log2(units / expected)).max() < 0.5001


def test_a_parameter_has_the_unit_of_its_output_channel(teacher, coarse):
    for model in (teacher, coarse):
        module = OnnxModule(model, ["logits"])
        for node in module.nodes:
            names = [value.name if value is not None else "" for value in node.inputs]
            if node.op_type == "Conv" and names[1] in module.units:
                weight = constant(node.inputs[1])
                expected = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
                assert_near(module.units[names[1]].numpy().ravel(), expected)
                assert len(names) < 3 or module.units[names[2]].shape == (len(weight),)
    units = {name: unit.numpy() for name, unit in OnnxModule(coarse, ["logits"]).units.items()}
    scales = OnnxModule(coarse, ["logits"]).scales
    biased = [node for node in coarse.graph if node.op_type == "Conv" and len(node.inputs) > 2]
    for node in biased:
        dequantize = node.inputs[1].producer()
        if dequantize is not None:  # an INT8 layer: its bias moves by the steps of its weights
            expected = scales[dequantize.inputs[0].name].numpy().ravel()
            assert_near(units[node.inputs[2].name], expected)


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, caplog, teacher, coarse):
    """A fine-tuning of half an hour is not silent in the log of a build."""
    monkeypatch.setattr("effedge.pipeline.training.log.progress.LINE_SECONDS", -1.0)
    with caplog.at_level("INFO", "effedge"):
        tune(teacher, coarse, SAMPLES, Tuning(steps=2, batch=2))
    first, last = caplog.messages
    assert first.startswith("step 1/2: loss ") and last.endswith(" 00:00 left")


def test_the_same_seed_learns_the_same(teacher, coarse):
    learnt = []
    for seed in (0, 0, 1):
        tuned = coarse.clone()
        tune(teacher, tuned, SAMPLES, Tuning(steps=3, batch=2, seed=seed))
        learnt.append(np.concatenate([each.const_value.numpy().ravel() for each in tuned.graph.initializers.values()]))
    np.testing.assert_array_equal(learnt[0], learnt[1])
    assert (learnt[0] != learnt[2]).any()


def test_losses_are_zero_for_the_same_and_only_then():
    torch.manual_seed(0)
    for loss, shapes in ((detection_loss, ((1, 20, 3), (1, 20, 4))), (classification_loss, ((1, 5),))):
        wanted = [torch.randn(shape) for shape in shapes]
        assert loss(wanted, wanted) == pytest.approx(0, abs=1e-5)
        assert loss(wanted, [each + 0.3 * torch.randn(each.shape) for each in wanted]) > 1e-3


def candidates(batch=1, count=20):
    corner = 100 * torch.rand(batch, count, 2)
    return [torch.cat([corner, corner + 5 + 50 * torch.rand(batch, count, 2)], dim=2), torch.rand(batch, count)]


def test_the_loss_of_candidates_is_zero_for_the_same_and_rises_with_scores_and_boxes():
    torch.manual_seed(0)
    boxes, scores = candidates()
    cells = torch.rand(1, 300)
    wanted = [boxes, scores, cells]
    assert selection_loss(wanted, wanted) == pytest.approx(0, abs=1e-5)
    moved = [selection_loss(wanted, [boxes + pixels, scores, cells]) for pixels in (1, 5, 1000)]
    assert 1e-2 < moved[0] < moved[1] < moved[2] == pytest.approx(1, abs=0.01)  # no overlap
    assert selection_loss(wanted, [boxes, scores, 0.5 * cells]) > 1e-2
    logits = torch.logit(cells)
    as_logits = selection_loss([boxes, scores, logits], [boxes, scores, torch.logit(0.5 * cells)])
    torch.testing.assert_close(as_logits, selection_loss(wanted, [boxes, scores, 0.5 * cells]))
    size = boxes[0, 0, 2:] - boxes[0, 0, :2]
    half = boxes[:, :1] + 0.5 * torch.cat([size, size])  # of two boxes moved by half their sides a seventh is shared
    assert overlap(boxes[:, :1], half).item() == pytest.approx(1 / 7, rel=1e-4)


SELECTION = """<ir_version: 8, opset_import: ["" : 13]>
net (float[1,10] cells, float[1,10,4] codes) => (float[1,6,4] boxes, float[1,6] scores)
<int64[1] count = {6}, int64[1] last = {2}, int64[3] repeats = {1, 1, 4}> {
    scores, order = TopK <axis = 1> (cells, count)
    index = Unsqueeze (order, last)
    columns = Tile (index, repeats)
    boxes = GatherElements <axis = 1> (codes, columns)
}"""


def test_a_detector_of_another_project_is_compared_at_the_candidates_of_the_float_model():
    model = onnx_file.ir.from_proto(onnx.parser.parse_model(SELECTION))
    model.metadata_props[SPEC_KEY] = json.dumps({"task": "detection"})
    heads = find_heads(model)
    assert heads.tensors == ["boxes", "scores", "cells"] and list(heads.chosen) == ["order"]
    cells, codes = torch.rand(1, 10), torch.rand(1, 10, 4)
    teacher, student = OnnxModule(model, [*heads.tensors, *heads.chosen]), OnnxModule(model, heads.tensors)
    boxes, scores, _, order = teacher({"cells": cells, "codes": codes})
    # The student ranks the cells the other way round.
    again = student({"cells": 1 - cells, "codes": codes, "order": order})
    torch.testing.assert_close(again[0], boxes)
    torch.testing.assert_close(again[1], 1 - scores)
    assert not torch.equal(student({"cells": 1 - cells, "codes": codes})[0], boxes)


def test_a_detector_that_cannot_be_differentiated_up_to_its_outputs_is_compared_at_its_last_layers():
    text = SELECTION.replace("scores, order =", "sums = CumSum (cells, last) scores, order =").replace(
        "(cells, count)", "(sums, count)"
    )
    model = onnx_file.ir.from_proto(onnx.parser.parse_model(text))
    model.metadata_props[SPEC_KEY] = json.dumps({"task": "detection"})
    assert find_heads(model).loss is error_over_variance


def test_boxes_count_where_the_float_model_sees_something():
    logits, codes = torch.tensor([[[-20.0], [3.0]]]), torch.zeros(1, 2, 4)
    off = [codes.clone(), codes.clone()]
    off[0][0, 0], off[1][0, 1] = 1.0, 1.0
    background, object_ = (detection_loss([logits, codes], [logits, each]) for each in off)
    assert background < 1e-4 < 1 < object_


def test_the_heads_of_each_kind_of_model(load, teacher):
    assert find_heads(teacher).tensors == ["logits"] and find_heads(teacher).loss is classification_loss
    detector = load(networks.detector())
    assert find_heads(detector).tensors == ["classes_conv", "boxes_conv"], "no candidates by the engine's contract"


def test_our_detectors_are_compared_where_the_selection_begins(prepared):
    import onnx_ir as ir

    model = onnx_file.prepare(ir.from_proto(prepared("det-lite0").simplified))
    logits, codes = candidate_tensors(model)
    shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
    assert tuple(shapes[logits])[1:] == (19206, 7) and tuple(shapes[codes])[1:] == (19206, 4)


def test_the_rate_warms_up_and_falls_to_nothing():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1 and rates[5] == pytest.approx(1) and rates[-1] < 1e-3


@pytest.fixture
def files(teacher, coarse, tmp_path):
    onnx_file.save(teacher, tmp_path / "simplified.onnx")
    onnx_file.save(coarse, tmp_path / "int8.onnx")
    other = teacher.clone()
    other.graph.initializers["fc.bias"].const_value = onnx_file.ir.tensor(np.full(networks.CLASSES, 7, np.float32))
    onnx_file.save(other, tmp_path / "other.onnx")
    np.savez(tmp_path / "data.npz", image=np.concatenate([feeds["image"] for feeds in networks.feeds(30)]))
    return tmp_path


@pytest.fixture
def call(call_main):
    return partial(call_main, command.main)


def words(folder, *more):
    return (folder / "simplified.onnx", folder / "int8.onnx", "--data", folder / "data.npz", "--out",
            folder / "tuned.onnx", "--steps", 4, *more)  # fmt: skip


def test_the_command_says_what_was_gained_and_is_not_run_twice(call, files):
    status, out, error = call(*words(files, "--steps", 60, "--batch", 2))
    assert status == 0 and "finetune: output error" in out and out.splitlines()[-1] == str(files / "tuned.onnx"), error
    report = json.loads(onnx_file.read(files / "tuned.onnx").metadata_props[CALIBRATION_KEY])
    assert report["finetuned"]["steps"] == 60 and report["output_error"] < report["finetuned"]["before"]
    assert "up to date" in call(*words(files, "--steps", 60, "--batch", 2))[1]


def test_the_outputs_are_judged_by_the_kinds_that_the_calibration_was_given(call, files, teacher, coarse):
    report = json.loads(coarse.metadata_props[CALIBRATION_KEY])
    kinds = {"logits": "values"}
    coarse.metadata_props[CALIBRATION_KEY] = json.dumps({**report, "output_kinds": kinds})
    onnx_file.save(coarse, files / "int8.onnx")
    assert call(*words(files))[0] == 0
    report = json.loads(onnx_file.read(files / "tuned.onnx").metadata_props[CALIBRATION_KEY])
    held_out = networks.as_samples(networks.feeds(30)).spread(6)
    wanted, guessed = (Trials(teacher, held_out, each).output_error(coarse) for each in (kinds, None))
    assert report["finetuned"]["before"] == pytest.approx(wanted, rel=1e-4) != pytest.approx(guessed, rel=1e-3)


def test_what_does_harm_is_not_kept(call, files, monkeypatch):
    def harm(teacher, student, *arguments, **options):
        student.graph.initializers["fc.bias"].const_value = onnx_file.ir.tensor(
            np.linspace(-9, 9, networks.CLASSES, dtype=np.float32), name="fc.bias"
        )

    monkeypatch.setattr("effedge.pipeline.training.finetune.tune.tune", harm)
    status, out, _ = call(*words(files))
    assert status == 0 and "left as it was" in out
    before, after = (onnx_file.read(files / name).graph.initializers["fc.bias"] for name in ("int8.onnx", "tuned.onnx"))
    np.testing.assert_array_equal(before.const_value.numpy(), after.const_value.numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: "nothing.onnx"}, "no ONNX file at"),
        ({1: "simplified.onnx"}, "is no INT8 ONNX"),
        ({0: "int8.onnx"}, "already quantized"),
        ({0: "other.onnx"}, "is not the float model that"),
        ({3: "nowhere"}, "nowhere"),
        ({7: 0}, "--steps 0"),
        ({8: "--rate", 9: 2}, "--rate 2"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(call, files, changes, message):
    given = dict(enumerate(words(files)))
    given.update(
        {index: files / word if str(word).endswith(("onnx", "here")) else word for index, word in changes.items()}
    )
    status, out, error = call(*given.values())
    assert status == 2 and message in error and error.count("\n") == 1 and not (files / "tuned.onnx").exists()


def test_a_loss_that_is_not_finite_names_the_rate(teacher, coarse):
    coarse.graph.initializers["fc.bias"].const_value = onnx_file.ir.tensor(
        np.full(networks.CLASSES, np.inf, np.float32), name="fc.bias"
    )
    with pytest.raises(UserError, match="--rate"):
        tune(teacher, coarse, SAMPLES, Tuning(steps=1))
