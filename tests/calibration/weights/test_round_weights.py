"""Weights rounded by their inputs: moments against NumPy, and what the rounding is worth at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.graph.session import parts_that_fit, session
from effedge.calibration.placement import make_plan
from effedge.calibration.placement.insert import InsertQDQPass, RoundedWeight
from effedge.calibration.ranges.collect import collect
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights import round_weights as rounding_pass
from effedge.calibration.weights.round_weights import Moments, moment_bytes, moments_of, round_weights
from effedge.calibration.weights.rounding import compensated, regularized, search_scales
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]


def quantized(model: ir.Model, samples: Samples, rounded: Mapping[str, RoundedWeight] | None = None) -> ir.Model:
    """All that the plan takes in INT8, min-max; weights to the nearest, but for those in `rounded`."""
    changed = model.clone()
    plan = make_plan(changed)
    ranges = collect(changed, samples, plan.tensors)
    thresholds = {name: each.amax for name, each in ranges.items()}
    InsertQDQPass(plan.reads, thresholds, plan.layers, rounded=rounded or {})(changed)
    return changed


def corrected(model: ir.Model, samples: Samples) -> ir.Model:
    return quantized(model, samples, round_weights(model, make_plan(model).layers, samples))


def tensors(model: ir.Model, names: list[str], samples: Samples) -> list[np.ndarray]:
    """Of each name [samples, ...]."""
    inputs = [value.name for value in model.graph.inputs]
    computed = [name for name in names if name not in inputs]
    running = session(model, computed) if computed else None

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**feeds, **(dict(zip(computed, running.run(computed, feeds), strict=True)) if running else {})}

    runs = [run(feeds) for _, feeds in samples]
    return [np.stack([arrays[name] for arrays in runs]) for name in names]


def decibels(model: ir.Model, changed: ir.Model, samples: Samples) -> float:
    name = model.graph.outputs[0].name or ""
    [wanted], [got] = (tensors(each, [name], samples) for each in (model, changed))
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def weights_of(model: ir.Model, name: str) -> np.ndarray:
    """What the layer multiplies with: INT8 weights by their scales."""
    dequantize = node_of(model, name).inputs[1].producer()
    whole, scale = (dequantize.inputs[index].const_value.numpy() for index in (0, 1))
    assert whole.dtype == np.int8 and scale.dtype == np.float32 and np.abs(whole.astype(int)).max() <= 127
    axis = dequantize.attributes["axis"].as_int()
    return whole * scale.reshape([-1 if dimension == axis else 1 for dimension in range(whole.ndim)])


def chain() -> Network:
    """1x1 convolutions (one without a bias), a depthwise one and swish."""
    net = Network(2)
    x = net.silu(net.conv(net.input("x", [1, 6, 8, 8]), "first", 6, 12), "act1")
    weight = net.constant("bare.weight", net.random.normal(0, 0.3, (12, 12, 1, 1)).astype(np.float32))
    x = net.silu(net.node("Conv", [x, weight], "bare"), "act2")
    x = net.silu(net.conv(x, "deep", 12, 12, group=12), "act3")
    net.output(net.conv(x, "last", 12, 5), [1, 5, 8, 8])
    return net


@pytest.fixture
def skewed() -> Samples:
    """Channels of unlike ranges and means, as after a few layers of any network."""
    runs = networks.normal_runs(12, (1, 6, 8, 8))
    offset, gain = np.float32([0, 2, -1, 0, 5, 0.1]), np.float32([1, 0.2, 3, 0.05, 1, 8])
    return networks.as_samples([{"x": run["x"] * gain[:, None, None] + offset[:, None, None]} for run in runs])


def test_the_error_at_the_output_falls_on_data_it_has_not_seen(load: Load) -> None:
    """Depthwise convolutions and swish, where rounding to the nearest loses most."""
    net = Network(7)
    x = net.input("x", [1, 6, 12, 12])
    for index, (cin, cout) in enumerate([(6, 16), (16, 16), (16, 16)]):
        x = net.silu(net.conv(x, f"expand{index}", cin, cout), f"act{index}")
        x = net.silu(net.conv(x, f"deep{index}", cout, cout, kernel=3, group=cout), f"deep_act{index}")
    net.output(net.conv(x, "last", 16, 4), [1, 4, 12, 12])
    model = load(net)
    samples, others = (networks.as_samples(networks.normal_runs(16, (1, 6, 12, 12), seed)) for seed in (0, 1))
    before, after = (decibels(model, make(model, samples), others) for make in (quantized, corrected))
    assert after > before + 0.5


def test_a_whole_network_comes_nearer(load: Load, samples: Samples) -> None:
    model, others = load(networks.classifier()), networks.as_samples(networks.feeds(12, seed=5))
    before, after = (decibels(model, make(model, samples), others) for make in (quantized, corrected))
    assert after > before


def test_only_weights_and_scales_of_the_layers_given_change(load: Load, skewed: Samples) -> None:
    model = load(chain())
    reference = ir.to_proto(model).SerializeToString()
    layers = [layer for layer in make_plan(model).layers if layer.name != "deep"]
    changed, before = quantized(model, skewed, round_weights(model, layers, skewed)), quantized(model, skewed)
    assert ir.to_proto(model).SerializeToString() == reference
    assert [node.name for node in changed.graph] == [node.name for node in before.graph]
    np.testing.assert_array_equal(weights_of(changed, "deep"), weights_of(before, "deep"))
    for name in ("first", "bare", "last"):
        assert (weights_of(changed, name) != weights_of(before, name)).any()
        old = node_of(model, name).inputs[1].const_value.numpy()
        assert np.linalg.norm(weights_of(changed, name) - old) < 0.3 * np.linalg.norm(old), "rounded, not made anew"
        assert len(node_of(changed, name).inputs) == len(node_of(model, name).inputs)
    np.testing.assert_array_equal(*(constant(node_of(each, "first").inputs[2]) for each in (changed, model)))


def gemm(alpha: float, beta: float, bias: tuple[int, ...] | None, trans_b: int) -> Network:
    net = Network(4)
    shape = (5, 9) if trans_b else (9, 5)
    inputs = [net.input("x", [16, 9]), net.constant("w", net.random.normal(size=shape).astype(np.float32))]
    if bias is not None:
        inputs.append(net.constant("b", net.random.normal(size=bias).astype(np.float32)))
    net.output(net.node("Gemm", inputs, "y", alpha=alpha, beta=beta, transB=trans_b), [16, 5])
    return net


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.0, -0.25), (1.0, 0.0)])
@pytest.mark.parametrize("bias", [(5,), (), (16, 1), None], ids=str)
def test_a_gemm_in_any_form_comes_nearer(
    load: Load, run_ort: Run, trans_b: int, alpha: float, beta: float, bias: tuple[int, ...] | None
) -> None:
    model = load(gemm(alpha, beta, bias, trans_b))
    gain = np.float32([3, 1, 1, 2, 1, 1, 0.3, 0.4, 1.7])
    samples = networks.as_samples([{"x": run["x"] * gain + 2 * gain} for run in networks.normal_runs(8, (16, 9))])
    changed = corrected(model, samples)
    assert decibels(model, changed, samples) > decibels(model, quantized(model, samples), samples)
    assert np.isfinite(run_ort(changed, samples.load(0))[0]).all()  # a valid file


def test_weights_are_rounded_so_that_the_mean_stays(load: Load) -> None:
    net = Network(4)
    weight = net.random.normal(size=(64, 5)).astype(np.float32)
    net.output(net.node("MatMul", [net.input("x", [16, 64]), net.constant("w", weight)], "y"), [16, 5])
    model = load(net)
    samples = networks.as_samples([{"x": run["x"] + 4} for run in networks.normal_runs(8, (16, 64))])
    mean = tensors(model, ["x"], samples)[0].mean(axis=(0, 1))
    before, after = (
        np.abs(mean @ (weights_of(make(model, samples), "y") - weight)).max() for make in (quantized, corrected)
    )
    assert after < 0.3 * before


def test_layers_that_share_weights_get_their_own(load: Load, skewed: Samples) -> None:
    net = Network(5)
    x = net.input("x", [1, 6, 8, 8])
    first = net.conv(x, "first", 6, 6)
    far = net.node("Mul", [net.silu(first, "act"), net.constant("ten", np.float32(10))], "far")
    second = net.node("Conv", [far, "first.weight", "first.bias"], "second")
    net.output(net.node("Add", [first, second], "sum"), [1, 6, 8, 8])
    model = load(net)
    changed = corrected(model, skewed)
    names = [[value.name for value in node_of(changed, name).inputs[1:2]] for name in ("first", "second")]
    assert not set(names[0]) & set(names[1])
    assert (weights_of(changed, "first") != weights_of(changed, "second")).any()


def test_moments_are_numpys_means_of_the_inputs_products(load: Load, skewed: Samples) -> None:
    """Of 1x1 convolutions, whose patches are the channels at all positions."""
    model = load(chain())
    layers = [layer for layer in make_plan(model).layers if layer.name in ("first", "last")]
    runs = []
    moments = moments_of(model, layers, skewed, lambda: runs.append(1))
    assert len(runs) == len(skewed)
    for layer, found in zip(layers, moments, strict=True):
        [data] = tensors(model, [layer.data.name or ""], skewed)  # [samples, 1, C, 8, 8]
        rows = np.moveaxis(data, 2, -1).reshape(-1, data.shape[2]).astype(np.float64)
        assert found.count == len(rows) == 12 * 64
        np.testing.assert_allclose(found.sums[0] / found.count, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)


def test_the_same_weights_come_out_in_one_pass_or_in_several_portions(
    load: Load, skewed: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(chain())
    layers = make_plan(model).layers

    def names_of_parts() -> list[list[str]]:
        parts = parts_that_fit(layers, moment_bytes, rounding_pass.MOMENT_BYTES)
        return [[layer.name for layer in part] for part in parts]

    assert len(names_of_parts()) == 1
    expected = round_weights(model, layers, skewed)
    monkeypatch.setattr(rounding_pass, "MOMENT_BYTES", 12 * 12 * 4)
    assert names_of_parts() == [["first"], ["bare"], ["deep"], ["last"]]
    found = round_weights(model, layers, skewed)
    assert found.keys() == expected.keys() == {"first", "bare", "deep", "last"}
    for name in expected:
        for ours, theirs in zip(found[name], expected[name], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(rounding_pass, "PORTION_BYTES", 0)
    for name, (whole, _) in round_weights(model, layers, skewed).items():
        assert np.mean(whole != expected[name][0]) < 0.02, "sums of float32 in another order"


@pytest.mark.parametrize("value", [0, 1e-20, 0.37, -3, 1234.5, 1e8])
@pytest.mark.parametrize("positions", [1, 64])
def test_inputs_that_never_change_leave_the_weights_near_what_they_were(value: float, positions: int) -> None:
    moments = Moments(1, 16)
    x = np.full((1, 16, positions), value, np.float32) * np.linspace(0.1, 1, 16, dtype=np.float32)[:, None]
    for _ in range(4):
        moments.add(x)
    weights = np.random.default_rng(0).normal(size=(1, 3, 16))
    certain = regularized(moments.sums.astype(np.float64) / moments.count, moments.count)
    scales = search_scales(weights, np.einsum("gkk->gk", certain))
    whole = compensated(weights, scales, certain)
    np.testing.assert_allclose(whole * scales[..., None], weights, atol=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_sample_of_a_single_row_is_enough_to_stay_near(load: Load, count: int) -> None:
    model = load(gemm(1.0, 1.0, (5,), 1))
    samples = networks.as_samples([{"x": run["x"][:1].repeat(16, 0)} for run in networks.normal_runs(count, (16, 9))])
    others = networks.as_samples(networks.normal_runs(4, (16, 9), seed=9))
    changed = corrected(model, samples)
    assert decibels(model, changed, samples) > 30
    limit = np.abs(tensors(model, ["y"], others)[0]).max()
    [wanted], [got] = (tensors(each, ["y"], others) for each in (model, changed))
    assert np.abs(wanted - got).max() < limit


def test_kernels_too_large_for_their_moments_are_left_as_they_are(
    load: Load, skewed: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effedge.calibration.weights.round_weights.LARGEST_KERNEL", 6)
    model = load(chain())
    changed, before = corrected(model, skewed), quantized(model, skewed)
    for name, same in (("first", False), ("bare", True), ("last", True)):
        assert (weights_of(changed, name) == weights_of(before, name)).all() == same


def test_without_layers_nothing_is_run(load: Load, skewed: Samples) -> None:
    assert round_weights(load(chain()), [], skewed) == {}


def test_an_input_without_positions_leaves_its_layer_out(load: Load) -> None:
    model = load(gemm(1.0, 1.0, (5,), 1))
    model.graph.inputs[0].shape = ir.Shape([None, 9])
    model.graph.outputs[0].shape = ir.Shape([None, 5])
    empty = networks.as_samples([{"x": np.zeros((0, 9), np.float32)}])
    assert round_weights(model, make_plan(model).layers, empty) == {}
