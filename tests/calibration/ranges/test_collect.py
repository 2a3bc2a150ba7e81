"""Ranges collected by streaming, against all activations kept in memory."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from effedge.calibration.graph.session import session
from effedge.calibration.ranges.collect import collect, collect_amax
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.thresholds import PERCENT, threshold
from effedge.deploy.common.cli import UserError
from tests.calibration import networks

TENSORS = ["nchw", "block1_se", "block1_add", "head_act"]


def test_min_max_and_thresholds_equal_numpys_on_everything(load: Callable[..., ir.Model], samples: Samples) -> None:
    model = load(networks.classifier())
    histograms = collect(model, samples, TENSORS)
    running = session(model, TENSORS)
    kept = [running.run(TENSORS, feed) for _, feed in samples]
    for index, name in enumerate(TENSORS):
        everything = np.concatenate([arrays[index].ravel() for arrays in kept])
        histogram = histograms[name]
        assert histogram.total == everything.size
        assert histogram.low == min(0, everything.min()) and histogram.high == max(0, everything.max())
        assert threshold(histogram, "minmax") == np.abs(everything).max()
        exact = np.quantile(np.abs(everything), PERCENT / 100, method="inverted_cdf")
        assert exact <= threshold(histogram, "percentile") <= exact + histogram.bin_width


def test_each_sample_is_inferred_exactly_once(load: Callable[..., ir.Model]) -> None:
    runs, loaded = networks.feeds(5), []

    def load_run(index: int) -> dict[str, np.ndarray]:
        loaded.append(index)
        return runs[index]

    collect(load(networks.classifier()), Samples(["x"] * 5, load_run), TENSORS)
    assert sorted(loaded) == [0, 1, 2, 3, 4]


def test_amax_in_the_graph_equals_amax_of_the_histograms(load: Callable[..., ir.Model], samples: Samples) -> None:
    model = load(networks.classifier())
    amax = collect_amax(model, samples, TENSORS)
    histograms = collect(model, samples, TENSORS)
    assert amax == {name: pytest.approx(histograms[name].amax) for name in TENSORS}


def square_root_network() -> networks.Network:
    """Conv(sqrt(x)) and Conv(1 / x): NaN below 0, infinite at 0."""
    net = networks.Network()
    x = net.input("x", [1, 2, 4, 4])
    net.output(net.conv(net.node("Sqrt", [x], "root"), "conv", 2, 2), [1, 2, 4, 4])
    net.output(net.conv(net.node("Reciprocal", [x], "inverse"), "conv2", 2, 2), [1, 2, 4, 4])
    return net


@pytest.mark.parametrize("collector", [collect, collect_amax])
@pytest.mark.parametrize(("bad", "tensor"), [(-1.0, "root"), (0.0, "inverse")])
def test_nan_and_infinity_name_the_tensor_and_the_image(
    load: Callable[..., ir.Model], collector: Callable[..., object], bad: float, tensor: str
) -> None:
    arrays = np.ones((3, 1, 2, 4, 4), np.float32)
    arrays[1, 0, 1, 2, 2] = bad
    three = Samples(["a.jpg", "b.jpg", "c.jpg"], lambda index: {"x": arrays[index]})
    with pytest.raises(UserError, match=f"'{tensor}' is NaN or infinite on 'b.jpg'"):
        collector(load(square_root_network()), three, ["root", "inverse"])


def test_graph_inputs_are_collected_from_the_feeds(load: Callable[..., ir.Model]) -> None:
    net = networks.Network()
    net.output(net.conv(net.input("x", [1, 2, 4, 4]), "conv", 2, 2), [1, 2, 4, 4], TensorProto.FLOAT)
    only = Samples(["a"], lambda index: {"x": np.full((1, 2, 4, 4), -3, np.float32)})
    assert collect(load(net), only, ["x"])["x"].low == -3
