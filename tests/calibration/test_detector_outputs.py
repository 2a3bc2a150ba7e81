"""A small YOLO whose class scores suffer in INT8: the same layers stay in 16 bit whether it concatenates its outputs or
not, and however they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.output_error.kinds import Choice
from effedge.calibration.output_error.measure import OutputJudge, Outputs, error_over_variance
from effedge.calibration.post_training import quantize
from effedge.calibration.settings import Settings
from effedge.deploy.common.contracts import CalibrationReport
from tests.calibration import networks

Load = Callable[[networks.Network], ir.Model]
CLASSES, CELLS = 6, 64
SAMPLES = networks.as_samples(networks.normal_runs(24, (1, 3, 16, 16)))
SETTINGS = Settings("minmax", correction=False, float_share=0.1)


def yolo(layout: str, logits: bool = False) -> networks.Network:
    """Boxes in pixels and scores of 8x8 cells, as [N,C,R], [N,R,C], or two outputs. The class layer reads channels that
    differ a thousandfold, so that INT8 keeps half of them; for the boxes every channel is alike."""
    net = networks.Network(4)
    x = net.silu(net.conv(net.input("x", [1, 3, 16, 16]), "stem", 3, 8, kernel=3, stride=2), "stem_act")
    x = net.silu(net.conv(x, "body", 8, 16, kernel=3, gain=2), "body_act")
    boxes = net.node("Softplus", [net.conv(x, "boxes_conv", 16, 4, gain=2)], "sizes")
    boxes = net.node("Mul", [boxes, net.constant("stride", np.float32(100))], "pixels")
    gains = np.where(np.arange(16) % 2, 1, 1e-3).astype(np.float32).reshape(1, 16, 1, 1)
    uneven = net.node("Mul", [x, net.constant("gains", gains)], "uneven")
    weight = net.random.normal(0, 3 / np.sqrt(16), (CLASSES, 16, 1, 1)).astype(np.float32) / gains
    names = [
        uneven,
        net.constant("classes.weight", weight),
        net.constant("classes.bias", np.full(CLASSES, -7, np.float32)),
    ]
    scores = net.node("Conv", names, "classes_conv")
    scores = scores if logits else net.node("Sigmoid", [scores], "probabilities")
    parts = []
    for name, part, channels in (("boxes", boxes, 4), ("scores", scores, CLASSES)):
        shape = net.constant(f"{name}_shape", np.array([1, channels, CELLS]))
        parts.append(net.node("Reshape", [part, shape], f"{name}_out"))
    if layout == "two outputs":
        net.output(parts[0], [1, 4, CELLS])
        net.output(parts[1], [1, CLASSES, CELLS])
        return net
    joined = net.node("Concat", parts, "out", axis=1)
    if layout == "[N,C,R]":
        net.output(joined, [1, 4 + CLASSES, CELLS])
    else:
        net.output(net.node("Transpose", [joined], "rows", perm=[0, 2, 1]), [1, CELLS, 4 + CLASSES])
    return net


def calibrated(load: Load, layout: str, logits: bool = False) -> CalibrationReport:
    return quantize(load(yolo(layout, logits)), SAMPLES, SETTINGS)[1]


@pytest.mark.parametrize("logits", [False, True], ids=["probabilities", "logits"])
def test_one_output_or_two_choose_the_same_layers_and_lose_the_same(load: Load, logits: bool) -> None:
    reports = [calibrated(load, layout, logits) for layout in ("two outputs", "[N,C,R]", "[N,R,C]")]
    for report in reports:
        assert "classes_conv" in report["float_layers"], report["judged_as"]
        assert report["float_layers"].keys() == reports[0]["float_layers"].keys()
        assert report["output_error"] == pytest.approx(reports[0]["output_error"], rel=0.02)


def test_by_the_variance_of_whole_tensors_the_boxes_would_hide_the_scores(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above is for: as the output error was measured before."""

    def whole_tensors(model: ir.Model, expected: Sequence[Outputs], *others: object) -> Choice:
        names = [value.name or "" for value in model.graph.outputs]
        return Choice([OutputJudge(name, index, error_over_variance) for index, name in enumerate(names)], {})

    monkeypatch.setattr("effedge.calibration.search.trials.choose_judges", whole_tensors)
    two, one = (calibrated(load, layout) for layout in ("two outputs", "[N,C,R]"))
    assert "classes_conv" in two["float_layers"] and "classes_conv" not in one["float_layers"]
    assert one["output_error"] < 0.01 * two["output_error"] + 1e-3
