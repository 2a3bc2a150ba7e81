"""The search for the fewest groups in 16 bit, against quantizers whose accuracy is known, and as a command."""

import json
from functools import partial
from types import SimpleNamespace

import onnx
import onnx_ir as ir
import pytest

from effedge.calibration.post_training import PostTrainingQuantizer
from effedge.calibration.quantize import main
from effedge.calibration.search import accuracy_budget
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from tests.calibration import networks


class KnownQuantizer:
    """Ten groups, of which the last has the most gain; a "model" is the list of the groups in 16 bit."""

    def __init__(self, proposed=3):
        self.gains = [0.01 * (index + 1) for index in range(10)]
        self.costs = [0.1] * 10
        self.thresholds = [1.0] * 10
        self.plan = SimpleNamespace(groups=[[f"tensor{index}"] for index in range(10)])
        self.model = SimpleNamespace(float_groups=None)
        self.proposed = proposed

    def choose_float_groups(self):
        return list(range(self.proposed))

    def build(self, float_groups):
        model = SimpleNamespace(float_groups=list(float_groups), metadata_props={})
        return model, {"int8_macs": 1 - len(float_groups) / 10}


def accuracy(model):
    """Each group in INT8 costs a point of 90."""
    return 90.0 if model.float_groups is None else 80.0 + len(model.float_groups)


@pytest.mark.parametrize("proposed", [0, 1, 3, 9])
@pytest.mark.parametrize(("max_drop", "groups"), [(20, 0), (10, 0), (9.5, 1), (7, 3), (5, 5), (4.5, 6), (1, 9)])
def test_the_fewest_groups_that_keep_within_the_drop(proposed, max_drop, groups):
    model, report = accuracy_budget.meet_budget(KnownQuantizer(proposed), accuracy, max_drop)
    assert model.float_groups == list(range(9, 9 - groups, -1)), "those that gain most leave INT8 first"
    found = report["budget"]
    assert (found["max_drop"], found["float"], found["int8"]) == (max_drop, 90, 80 + groups)
    assert found["attempts"][0] == {"groups": 0, "int8_macs": 1, "accuracy": 80}
    assert len(found["attempts"]) == len({attempt["groups"] for attempt in found["attempts"]}) <= 7
    assert json.loads(model.metadata_props[CALIBRATION_KEY]) == report


@pytest.mark.parametrize(("reference", "told"), [(13.4, True), (79.0, False), (0.0, True)])
def test_int8_far_better_than_float_is_told(reference, told, capsys):
    """As the bundled D0 does it: 13.4 AP in float on images where INT8, which clips, reaches 51."""
    _, report = accuracy_budget.meet_budget(
        KnownQuantizer(), lambda model: reference if model.float_groups is None else 80.0, 0.2
    )
    assert report["budget"]["float_fails"] is told
    assert capsys.readouterr().err.startswith("note: INT8 reaches 80 points") is told


def test_a_drop_that_cannot_be_kept_names_the_best():
    with pytest.raises(UserError, match=r"more than 0\.5 points.*9 groups.*loses 1 points \(89 of 90\) with 10\.0%"):
        accuracy_budget.meet_budget(KnownQuantizer(), accuracy, 0.5)


def test_the_last_layer_in_int8_is_never_taken_out():
    quantizer = KnownQuantizer()
    quantizer.costs[:3] = [0, 0, 0]  # shortcuts, which no layer reads
    assert accuracy_budget.most_groups(quantizer, list(range(9, -1, -1))) == 6
    quantizer.costs = [1.0] + [0.0] * 9
    assert accuracy_budget.most_groups(quantizer, list(range(10))) == 0


def test_gains_that_the_search_left_out_are_measured(load, samples):
    quantizer = PostTrainingQuantizer(load(networks.classifier()), samples, Settings("minmax"))
    quantizer.gains = [0.0] * len(quantizer.gains)
    measured = accuracy_budget.measured_gains(quantizer)
    assert any(measured) and len(measured) == len(quantizer.plan.groups)
    assert all(each <= quantizer.output_error for each in measured)
    quantizer.gains = measured
    assert accuracy_budget.measured_gains(quantizer) is measured


@pytest.fixture
def call(call_main):
    return partial(call_main, main)


def test_max_output_error_as_a_command(call, tmp_path, load, samples):
    import numpy as np

    model = networks.classifier().save(tmp_path / "model.onnx", spec=networks.SPEC)
    data, out = tmp_path / "data.npz", tmp_path / "int8.onnx"
    np.savez(data, image=np.concatenate([feeds["image"] for feeds in networks.feeds(12)]))
    common = (model, "--calibration", data, "--out", out, "-q")
    assert call(*common, "--float-share", "0")[0] == 0
    whole = json.loads(ir.load(out).metadata_props[CALIBRATION_KEY])["output_error"]
    status, printed, _ = call(*common, "--max-output-error", whole / 2)
    assert (status, printed.count("calibrate: making")) == (0, 1)
    report = json.loads(ir.load(out).metadata_props[CALIBRATION_KEY])
    assert report["output_error"] <= whole / 2 and report["int8_layers"] > 0
    assert report["budget"]["attempts"][0]["groups"] == 0 and report["budget"]["unit"] == "output error"
    assert report["budget"]["int8"] == pytest.approx(-report["output_error"], abs=1e-6)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert "up to date" in call(*common, "--max-output-error", whole / 2)[1]
    assert "making" in call(*common, "--max-output-error", whole)[1]
    status, _, error = call(*common, "--max-output-error", "0")
    assert status == 2 and error.count("\n") == 1 and "INT8 loses more than 0 output error" in error


@pytest.mark.parametrize("given", ["-0.1", "1.5", "nan"])
def test_an_output_error_out_of_range_is_one_line(call, tmp_path, given):
    status, _, error = call(tmp_path / "m.onnx", "--calibration", "d", "--out", "o", "--max-output-error", given)
    assert status == 2 and error.count("\n") == 1 and "--max-output-error" in error
