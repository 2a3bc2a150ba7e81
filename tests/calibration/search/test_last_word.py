"""The output error on samples that no trial has seen, and the warning where INT8 is worth nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from effedge.calibration import post_training
from effedge.calibration.post_training import PostTrainingQuantizer, describe, quantize
from effedge.calibration.quantize import main
from effedge.calibration.ranges.samples import Samples, spread
from effedge.calibration.search.trials import Trials
from effedge.calibration.settings import Settings
from effedge.deploy.common.contracts import CALIBRATION_KEY
from tests.calibration import networks

Load = Callable[[networks.Network], ir.Model]
PLAIN = Settings("minmax", correction=False, float_share=0)


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of eight samples, a correction of twelve."""
    monkeypatch.setattr(post_training, "trial_budget", lambda macs: (8, 60))
    monkeypatch.setattr(post_training, "sample_budget", lambda macs: 12)


def worthless(position: float = 1e-4) -> networks.Network:
    """A convolution whose weights for a channel of nearly nothing are ten thousand times the others, which INT8 rounds
    away."""
    net = networks.Network(2)
    x = net.node("Relu", [net.conv(net.input("x", [1, 3, 8, 8]), "stem", 3, 8, kernel=3)], "act")
    gains = np.full((1, 8, 1, 1), position, np.float32)
    gains[0, 0] = 1
    uneven = net.node("Mul", [x, net.constant("gains", gains)], "uneven")
    weight = net.random.normal(0, 0.3, (6, 8, 1, 1)).astype(np.float32) / gains
    net.output(net.node("Conv", [uneven, net.constant("odd.weight", weight)], "odd"), [1, 6, 8, 8])
    return net


def runs(count: int, seed: int = 0) -> Samples:
    return networks.as_samples(networks.normal_runs(count, (1, 3, 8, 8), seed))


@pytest.mark.usefixtures("few_trials")
def test_the_last_word_is_the_error_on_samples_that_chose_and_fitted_nothing(load: Load) -> None:
    model, samples = load(worthless(0.3)), runs(40)
    quantizer = PostTrainingQuantizer(model, samples, Settings("minmax"))
    changed, report = quantize(model, samples, Settings("minmax"))
    trial, fitted = set(spread(range(40), 8)), {int(name.split()[1]) for name in quantizer.fitted_samples.names}
    assert len(fitted) == 12 and not trial & fitted
    unseen = spread([index for index in range(40) if index not in trial | fitted], 16)
    others = Samples([f"run {index}" for index in unseen], lambda index: samples.load(unseen[index]))
    found = report["held_out"]
    assert found is not None and (found["samples"], found["fitted"]) == (16, False)
    wanted = Trials(model, others).output_error(changed)
    assert found["output_error"] == pytest.approx(wanted, rel=0.01, abs=1e-6)
    assert found["blocks"] == {"odd": found["output_error"]}
    assert json.loads(changed.metadata_props[CALIBRATION_KEY]) == report
    assert f"{found['output_error']:.2g} on 16 samples that no trial has seen;" in describe(report)


@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize(
    ("count", "settings", "samples", "fitted"),
    [
        (40, PLAIN, 16, False),
        (20, PLAIN, 12, False),
        (20, Settings("minmax"), 12, True),
        (11, PLAIN, None, None),
    ],
)
def test_where_samples_are_few_it_says_so(
    load: Load, count: int, settings: Settings, samples: int | None, fitted: bool | None
) -> None:
    _, report = quantize(load(worthless(0.3)), runs(count), settings)
    found = report["held_out"]
    assert (None if found is None else (found["samples"], found["fitted"])) == (samples and (samples, fitted))
    assert ("too few are left to judge it by" in describe(report)) == (samples is None)
    assert ("by which its weights were rounded" in describe(report)) == bool(fitted)


@pytest.mark.usefixtures("few_trials")
def test_int8_that_is_worth_nothing_is_a_warning_with_the_layer_that_does_it(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = quantize(load(worthless(0.3)), runs(40), PLAIN)
    assert report["output_error"] < 0.1 and capsys.readouterr().err == ""
    _, report = quantize(load(worthless(0.014)), runs(40), PLAIN)
    error = capsys.readouterr().err
    assert 0.25 < report["output_error"] < 0.5
    assert error.count("\n") == 1 and "worth little" in error and "most by themselves lose 'odd' (" in error
    assert "'stem'" not in error


def test_a_limit_that_cannot_be_met_names_the_layers_and_ends_with_status_2(call_main, tmp_path: Path) -> None:
    model, data, out = worthless().save(tmp_path / "net.onnx"), tmp_path / "data.npz", tmp_path / "int8.onnx"
    np.savez(data, x=np.concatenate([feeds["x"] for _, feeds in runs(12)]))
    call = partial(call_main, main)
    common = (model, "--calibration", data, "--out", out, "--method", "minmax", "--no-correction", "-q")
    status, _, error = call(*common, "--max-output-error", "1e-9")
    assert status == 2 and error.count("\n") == 1 and "INT8 loses more than 1e-09 output error" in error
    assert "most by themselves lose 'odd' (" in error and not out.exists()
    status, printed, error = call(*common, "--max-output-error", "0.1")
    assert status == 0 and error == "" and "calibrate: output 'odd': values" in printed


@pytest.mark.usefixtures("few_trials")
def test_a_limit_holds_on_samples_that_chose_nothing_too(load: Load) -> None:
    quantizer = PostTrainingQuantizer(load(worthless(0.3)), runs(40), PLAIN)
    model, report = quantizer.build([])
    held_out = quantizer.held_out
    assert held_out is not None
    errors = [report["output_error"], held_out.trials.output_error(model)]
    assert quantizer.limited_error(model) == pytest.approx(max(errors), abs=1e-6)


def test_the_command_says_how_it_judges_and_takes_another_kind(call_main, tmp_path: Path) -> None:
    model, data, out = worthless(0.3).save(tmp_path / "net.onnx"), tmp_path / "data.npz", tmp_path / "int8.onnx"
    np.savez(data, x=np.concatenate([feeds["x"] for _, feeds in runs(12)]))
    call = partial(call_main, main)
    common = (model, "--calibration", data, "--out", out, "--method", "minmax", "--no-correction", "-q")
    assert "output 'odd': values (if that is wrong: --output-kind NAME=KIND)" in call(*common)[1]
    assert "up to date" in call(*common)[1]
    status, printed, _ = call(*common, "--output-kind", "odd=logits")
    assert status == 0 and "output 'odd': logits of scores" in printed, "the stage runs again"
    report = json.loads({prop.key: prop.value for prop in onnx.load(out).metadata_props}[CALIBRATION_KEY])
    assert report["judged_as"] == {"odd": "logits of scores"}
    for given, message in (
        ("odd", "--output-kind odd: expected NAME=KIND"),
        ("odd=logit", "unknown kind of output 'logit': did you mean 'logits'"),
        ("even=logits", "unknown output 'even': did you mean 'odd'"),
        ("odd=boxes", "expected boxes [N,R,4]"),
    ):
        status, _, error = call(*common, "--output-kind", given)
        assert status == 2 and error.count("\n") == 1 and message in error
