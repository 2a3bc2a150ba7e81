"""The correction of weights and biases: means by hand, levels, and what it is worth at the outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.graph.session import session
from effedge.calibration.placement import make_plan
from effedge.calibration.placement.insert import InsertQDQPass
from effedge.calibration.placement.layers import Layer, find_layers
from effedge.calibration.ranges.collect import collect
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.correct import (
    Candidate,
    Moments,
    bytes_between,
    correct,
    levels,
    portions_of,
    position_weights,
)
from effedge.calibration.weights.layered_run import layer_depths
from effedge.calibration.weights.rounding import compensated, refit, regularized, search_scales
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]


def quantized(model: ir.Model, samples: Samples) -> ir.Model:
    """All that the plan takes in INT8, min-max, weights to the nearest."""
    changed = model.clone()
    plan = make_plan(changed)
    ranges = collect(changed, samples, plan.tensors)
    InsertQDQPass(plan.reads, {name: each.amax for name, each in ranges.items()}, plan.layers)(changed)
    return changed


def corrected(model: ir.Model, samples: Samples) -> ir.Model:
    changed = quantized(model, samples)
    correct(model, [Candidate(changed)], make_plan(model).layers, samples)
    return changed


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


def test_no_layer_of_a_level_is_behind_another_and_all_before_it_come_earlier(load: Load) -> None:
    for net in (networks.classifier(), networks.detector(), chain()):
        model = load(net)
        layers = make_plan(model).layers
        portions = levels(model.graph, layers)
        assert list(portions) == sorted(portions)
        level_of = {layer.node: level for level, portion in portions.items() for layer in portion}
        assert sorted(layer.name for layer in layers) == sorted(node.name for node in level_of)
        for node, level in level_of.items():
            behind, waiting = set(), [node]
            while waiting:
                for output in waiting.pop().outputs:
                    waiting.extend(reader for reader in output.consumers() if reader not in behind)
                    behind.update(output.consumers())
            assert all(level_of[other] > level for other in behind if other in level_of)


def test_levels_by_hand(load: Load) -> None:
    net = Network()
    x = net.input("x", [1, 4, 4, 4])
    long = net.conv(net.conv(x, "a", 4, 4), "b", 4, 4)
    short = net.conv(x, "c", 4, 4)
    net.output(net.conv(net.node("Add", [short, long], "sum"), "d", 4, 4), [1, 4, 4, 4])
    layers = {layer.name: layer for layer in find_layers(load(net).graph)}
    graph = layers["a"].node.graph

    def names(chosen: str) -> list[set[str]]:
        portions = levels(graph, [layers[name] for name in chosen])
        return [{layer.name for layer in portion} for portion in portions.values()]

    assert names("abcd") == [{"a", "c"}, {"b"}, {"d"}]
    assert names("bcd") == [{"b", "c"}, {"d"}], "a layer that stays in float makes no level"


def weighted_mean(rows: np.ndarray, by: np.ndarray) -> np.ndarray:
    """[samples, 1, channels, height, width] -> [channels]. A position counts less, the larger the float input is there
    (half as much where its power is the run's mean), so that the few huge ones do not decide."""
    power = np.square(by.astype(np.float64)).mean(axis=2, keepdims=True)
    mean = power.mean(axis=(3, 4), keepdims=True)
    weights = mean / (power + mean)
    return (rows * weights).sum(axis=(0, 1, 3, 4)) / weights.sum()


@pytest.mark.parametrize("layer", ["first", "bare", "deep", "last"])
def test_the_mean_of_each_layers_output_is_the_float_models(load: Load, skewed: Samples, layer: str) -> None:
    model = load(chain())
    changed, nearest = corrected(model, skewed), quantized(model, skewed)
    data = node_of(model, layer).inputs[0].name
    [by] = tensors(model, [data], skewed)
    wanted, got, before = (
        weighted_mean(tensors(each, [layer], skewed)[0], by) for each in (model, changed, nearest)
    )  # fmt: skip
    spread = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, atol=2e-5 * spread)
    assert np.abs(before - wanted).max() > 2e-4 * spread


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


def test_only_weights_scales_and_biases_of_the_layers_given_change(load: Load, skewed: Samples) -> None:
    model = load(chain())
    changed, before = quantized(model, skewed), quantized(model, skewed)
    reference = ir.to_proto(model).SerializeToString()
    layers = [layer for layer in make_plan(model).layers if layer.name != "deep"]
    correct(model, [Candidate(changed)], layers, skewed)
    assert ir.to_proto(model).SerializeToString() == reference
    assert [node.name for node in changed.graph] == [node.name for node in before.graph]
    np.testing.assert_array_equal(weights_of(changed, "deep"), weights_of(before, "deep"))
    np.testing.assert_array_equal(
        constant(node_of(changed, "deep").inputs[2]), constant(node_of(model, "deep").inputs[2])
    )
    for name in ("first", "bare", "last"):
        assert (weights_of(changed, name) != weights_of(before, name)).any()
        old = node_of(model, name).inputs[1].const_value.numpy()
        assert np.linalg.norm(weights_of(changed, name) - old) < 0.3 * np.linalg.norm(old), "fitted, not made anew"


def test_a_convolution_without_a_bias_gets_one_and_the_file_is_valid(load: Load, skewed: Samples, run_ort: Run) -> None:
    changed = corrected(load(chain()), skewed)
    bias = constant(node_of(changed, "bare").inputs[2])
    assert bias is not None and bias.dtype == np.float32 and bias.shape == (12,)
    assert np.isfinite(run_ort(changed, skewed.load(0))[0]).all()


def test_a_convolution_with_an_empty_bias_gets_one(load: Load, skewed: Samples) -> None:
    net = Network(3)
    weight = net.constant("w", net.random.normal(size=(4, 6, 1, 1)).astype(np.float32))
    net.output(net.node("Conv", [net.input("x", [1, 6, 8, 8]), weight, ""], "y"), [1, 4, 8, 8])
    model = load(net)
    changed = corrected(model, skewed)
    assert constant(node_of(changed, "y").inputs[2]).shape == (4,)
    assert decibels(model, changed, skewed) > decibels(model, quantized(model, skewed), skewed)


def gemm(alpha: float, beta: float, bias: tuple[int, ...] | None, trans_b: int) -> Network:
    net = Network(4)
    shape = (5, 9) if trans_b else (9, 5)
    inputs = [net.input("x", [16, 9]), net.constant("w", net.random.normal(size=shape).astype(np.float32))]
    if bias is not None:
        inputs.append(net.constant("b", net.random.normal(size=bias).astype(np.float32)))
    net.output(net.node("Gemm", inputs, "y", alpha=alpha, beta=beta, transB=trans_b), [16, 5])
    return net


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (2.0, -0.25), (1.0, 0.0)])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (), (16, 1), None], ids=str)
def test_the_mean_of_a_gemm_is_kept_with_its_alpha_and_beta_and_any_form_of_bias(
    load: Load, run_ort: Run, trans_b: int, alpha: float, beta: float, bias: tuple[int, ...] | None
) -> None:
    model = load(gemm(alpha, beta, bias, trans_b))
    sign = np.sign(np.random.default_rng(1).normal(size=(8, 16, 9))).astype(np.float32)
    rows = sign * np.float32([3, 1, 1, 2, 1, 1, 0.3, 0.4, 1.7])  # every row of one power, so all count the same
    rows = np.where(np.random.default_rng(2).random(rows.shape) < 0.8, np.abs(rows), -np.abs(rows)).astype(np.float32)
    samples = networks.as_samples([{"x": each} for each in rows])
    changed = corrected(model, samples)
    [wanted], [got] = (tensors(each, ["y"], samples) for each in (model, changed))
    assert np.isfinite(got).all()
    if beta != 0:
        np.testing.assert_allclose(got.mean(axis=(0, 1)), wanted.mean(axis=(0, 1)), atol=2e-5 * np.abs(wanted).max())
    assert decibels(model, changed, samples) > 30
    run_ort(changed, samples.load(0))  # a valid file


def test_a_product_without_a_bias_has_its_mean_from_its_weights(load: Load) -> None:
    net = Network(4)
    weight = net.constant("w", net.random.normal(size=(9, 5)).astype(np.float32))
    net.output(net.node("MatMul", [net.input("x", [16, 9]), weight], "y"), [16, 5])
    model = load(net)
    samples = networks.as_samples([{"x": run["x"] + 4} for run in networks.normal_runs(8, (16, 9))])
    changed = corrected(model, samples)
    assert len(node_of(changed, "y").inputs) == 2
    [wanted], [got], [before] = (tensors(m, ["y"], samples) for m in (model, changed, quantized(model, samples)))
    error, old = (np.abs((each - wanted).mean(axis=(0, 1))).max() for each in (got, before))
    assert error < old


def test_a_bias_that_the_graph_computes_stays_and_the_weights_take_up_the_mean(load: Load, skewed: Samples) -> None:
    net = Network(4)
    x = net.input("x", [1, 6, 8, 8])
    bias = net.node("ReduceMean", [x, net.constant("axes", np.array([0, 2, 3]))], "bias", keepdims=0)
    weight = net.constant("w", net.random.normal(size=(6, 6, 1, 1)).astype(np.float32))
    net.output(net.node("Conv", [x, weight, bias], "y"), [1, 6, 8, 8])
    model = load(net)
    changed, nearest = corrected(model, skewed), quantized(model, skewed)
    assert node_of(changed, "y").inputs[2].name == "bias"
    assert decibels(model, changed, skewed) > decibels(model, nearest, skewed)


def test_layers_that_share_weights_and_bias_get_their_own(load: Load, skewed: Samples) -> None:
    net = Network(5)
    x = net.input("x", [1, 6, 8, 8])
    first = net.conv(x, "first", 6, 6)
    far = net.node("Mul", [net.silu(first, "act"), net.constant("ten", np.float32(10))], "far")
    second = net.node("Conv", [far, "first.weight", "first.bias"], "second")
    net.output(net.node("Add", [first, second], "sum"), [1, 6, 8, 8])
    model = load(net)
    changed = corrected(model, skewed)
    names = [[value.name for value in node_of(changed, name).inputs[1:]] for name in ("first", "second")]
    assert not set(names[0]) & set(names[1])
    assert (weights_of(changed, "first") != weights_of(changed, "second")).any()
    biases = [constant(node_of(changed, name).inputs[2]) for name in ("first", "second")]
    assert (biases[0] != biases[1]).any()
    for name in ("first", "second"):
        [by] = tensors(model, [node_of(model, name).inputs[0].name], skewed)
        wanted, got = (weighted_mean(tensors(each, [name], skewed)[0], by) for each in (model, changed))
        np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())


def test_moments_are_numpys_weighted_means_and_covariances() -> None:
    random = np.random.default_rng(0)
    runs = [random.normal(2, [1, 5, 0.1], (2, 40, 3)).astype(np.float32) for _ in range(3)]
    sent = [run + 0.1 * random.normal(size=run.shape).astype(np.float32) for run in runs]
    moments = Moments.empty(2, 3)
    weights = []
    for quantized_rows, float_rows in zip(sent, runs, strict=True):
        patches = float_rows.swapaxes(1, 2)
        moments.add(quantized_rows.swapaxes(1, 2), patches, position_weights(patches))
        power = np.square(float_rows.astype(np.float64)).mean(axis=(0, 2))
        weights.append(power.mean() / (power + power.mean()))
    own, cross, mean, float_mean = moments.centred()
    assert moments.positions == 120
    for group in range(2):
        rows, floats = (np.concatenate([run[group] for run in each]).astype(np.float64) for each in (sent, runs))
        both = np.cov(np.hstack([floats, rows]).T, aweights=np.concatenate(weights), ddof=0)
        np.testing.assert_allclose(own[group], both[3:, 3:], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(cross[group], both[:3, 3:], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mean[group], np.average(rows, axis=0, weights=np.concatenate(weights)), rtol=1e-5)
        np.testing.assert_allclose(float_mean[group], np.average(floats, 0, np.concatenate(weights)), rtol=1e-5)


@pytest.mark.parametrize("value", [0, 1e-20, 0.37, -3, 1234.5, 1e8])
@pytest.mark.parametrize("positions", [1, 64])
def test_inputs_that_never_change_leave_the_weights_as_they_are(value: float, positions: int) -> None:
    """The sums are float32 and centred afterwards: what is left is rounding error, of either sign."""
    moments = Moments.empty(1, 16)
    x = np.full((1, 16, positions), value, np.float32) * np.linspace(0.1, 1, 16, dtype=np.float32)[:, None]
    for _ in range(4):
        moments.add(x * np.float32(1.003), x, position_weights(x))
    own, cross, _, _ = moments.centred()
    weights = np.random.default_rng(0).normal(size=(1, 3, 16))
    fitted, certain = refit(weights, own, cross, moments.positions), regularized(own, moments.positions)
    scales = search_scales(fitted, np.einsum("gkk->gk", certain))
    whole = compensated(fitted, scales, certain)
    np.testing.assert_allclose(fitted, weights, atol=0.05)
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
    monkeypatch.setattr("effedge.calibration.weights.correct.LARGEST_KERNEL", 6)
    model = load(chain())
    changed, before = corrected(model, skewed), quantized(model, skewed)
    for name, same in (("first", False), ("bare", True), ("deep", False), ("last", True)):
        assert (weights_of(changed, name) == weights_of(before, name)).all() == same


def test_a_layer_list_of_none_is_fine(load: Load, skewed: Samples) -> None:
    model = load(chain())
    changed = quantized(model, skewed)
    before = ir.to_proto(changed).SerializeToString()
    nothing: list[Layer] = []
    correct(model, [Candidate(changed)], nothing, skewed)
    assert ir.to_proto(changed).SerializeToString() == before


def test_where_tensors_are_large_few_samples_run_from_the_image_on_and_the_others_come_in_later(
    load: Load, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(networks.classifier())
    layers_of_level = levels(model.graph, make_plan(model).layers)
    depth = layer_depths(model.graph, [layer.name for portion in layers_of_level.values() for layer in portion])
    held = {level: 2 * bytes_between(depth, level) for level in layers_of_level}
    monkeypatch.setattr("effedge.calibration.weights.correct.FEWEST_SAMPLES", 2)
    monkeypatch.setattr("effedge.calibration.weights.correct.HELD_BYTES", 3 * max(held.values()))
    (start, few), (late, others) = portions_of(model.graph, layers_of_level, samples, 2)
    assert start == 0 and len(few) == 3 and late > 1
    assert not set(few.names) & set(others.names)
    fitting = [3 * max(held.values()) // max(held[level] for level in held if level >= late)]
    assert len(few) + len(others) == min(len(samples), *fitting)
    before, changed = quantized(model, samples), quantized(model, samples)
    correct(model, [Candidate(changed)], make_plan(model).layers, samples)
    unseen = networks.as_samples(networks.feeds(12, seed=5))
    assert decibels(model, changed, unseen) > decibels(model, before, unseen)
    monkeypatch.setattr("effedge.calibration.weights.correct.HELD_BYTES", 1 << 30)
    assert [(level, len(portion)) for level, portion in portions_of(model.graph, layers_of_level, samples, 2)] == [
        (0, len(samples))
    ]


def test_a_candidate_may_keep_its_biases(load: Load, skewed: Samples) -> None:
    model = load(chain())
    layers = make_plan(model).layers
    before = quantized(model, skewed)
    kept, moved = (Candidate(quantized(model, skewed), refitted=False, biased=biased) for biased in (False, True))
    correct(model, [kept, moved], layers, skewed)
    biases = [
        {node.name: constant(node.inputs[2]) for node in each.graph if node.op_type == "Conv" and len(node.inputs) > 2}
        for each in (before, kept.model, moved.model)
    ]
    assert biases[0] and all((biases[1][name] == bias).all() for name, bias in biases[0].items())
    assert any((biases[2][name] != bias).any() for name, bias in biases[0].items())
    name = layers[0].name  # which has the same inputs in both
    np.testing.assert_array_equal(weights_of(kept.model, name), weights_of(moved.model, name))
    assert (weights_of(kept.model, name) != weights_of(before, name)).any()


def test_candidates_corrected_together_are_those_corrected_by_themselves(load: Load, skewed: Samples) -> None:
    model = load(chain())
    layers = make_plan(model).layers
    together = [Candidate(quantized(model, skewed), refitted) for refitted in (True, False)]
    correct(model, together, layers, skewed)
    for candidate in together:
        alone = Candidate(quantized(model, skewed), candidate.refitted)
        correct(model, [alone], layers, skewed)
        for layer in layers:
            np.testing.assert_array_equal(weights_of(candidate.model, layer.name), weights_of(alone.model, layer.name))
    first, second = (weights_of(candidate.model, "last") for candidate in together)
    assert (first != second).any()
