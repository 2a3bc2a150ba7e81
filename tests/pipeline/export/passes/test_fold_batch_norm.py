"""A BatchNorm goes into the convolution in front of it, also where several share one kernel."""

import numpy as np
import pytest

from effedge.pipeline.export.passes.fold_batch_norm import fold_batch_norm, why_not
from tests.pipeline.export.passes.tiny_graphs import assert_same, kinds, make, node_of, noise, run

X = noise(1, 4, 5, 5)


def statistics(name, channels=6):
    """gamma, beta, mean and a positive variance."""
    values = {part: noise(channels) for part in ("gamma", "beta", "mean")}
    values["var"] = np.abs(noise(channels)) + 0.1
    return {f"{name}.{part}": value for part, value in values.items()}


def norm(source, out, name, epsilon=1e-3):
    parts = [f"{name}.{part}" for part in ("gamma", "beta", "mean", "var")]
    return "BatchNormalization", [source, *parts], [out], {"epsilon": epsilon}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_norm_becomes_weights(bias, groups):
    weights = {"w": noise(6, 4 // groups, 3, 3)} | ({"b": noise(6)} if bias else {})
    conv = ("Conv", ["x", *weights], ["c"], {"group": groups, "pads": [1, 1, 1, 1]})
    nodes = [conv, norm("c", "y", "bn")]
    model = make(nodes, {"x": X.shape}, {"y": [1, 6, 5, 5]}, weights | statistics("bn"))
    before = run(model, x=X)
    assert fold_batch_norm(model) == 1 and kinds(model) == ["Conv"]
    assert model.graph.outputs[0].name == "y"
    assert_same(before, run(model, x=X))


def test_the_missing_epsilon_is_onnxs_default():
    op, ins, outs, _ = norm("c", "y", "bn")
    constants = {"w": noise(6, 4, 1, 1)} | statistics("bn")
    constants["bn.var"][:] = 1e-6  # so that 1e-5 matters
    model = make([("Conv", ["x", "w"], ["c"], {}), (op, ins, outs, {})], {"x": X.shape}, {"y": [1, 6, 5, 5]}, constants)
    before = run(model, x=X)
    assert fold_batch_norm(model) == 1
    after = run(model, x=X)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-3)


def test_levels_that_share_a_kernel_each_get_their_own():
    nodes = [
        ("Conv", ["x", "w", "b"], ["c0"], {}),
        ("Conv", ["x2", "w", "b"], ["c1"], {}),
        norm("c0", "y", "low"),
        norm("c1", "z", "high"),
    ]
    constants = {"w": noise(6, 4, 1, 1), "b": noise(6)} | statistics("low") | statistics("high")
    model = make(nodes, {"x": X.shape, "x2": X.shape}, {"y": [1, 6, 5, 5], "z": [1, 6, 5, 5]}, constants)
    before = run(model, x=X, x2=2 * X)
    assert fold_batch_norm(model) == 2 and kinds(model) == ["Conv", "Conv"]
    assert len({node.inputs[1].name for node in model.graph}) == 2
    assert_same(before, run(model, x=X, x2=2 * X))


def test_what_reads_the_batch_norm_reads_the_convolution():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        norm("c", "n", "bn"),
        ("Relu", ["n"], ["y"], {}),
        ("Neg", ["n"], ["z"], {}),
    ]
    model = make(
        nodes, {"x": X.shape}, dict.fromkeys(("y", "z"), [1, 6, 5, 5]), {"w": noise(6, 4, 1, 1)} | statistics("bn")
    )
    before = run(model, x=X)
    assert fold_batch_norm(model) == 1 and kinds(model) == ["Conv", "Relu", "Neg"]
    assert_same(before, run(model, x=X))


CONV = ("Conv", ["x", "w"], ["c"], {})
W = {"w": noise(6, 4, 1, 1)}


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants", "feeds", "reason"),
    [
        ([norm("x", "y", "bn")], {"y": 4}, statistics("bn", 4), {}, "no convolution in front of it"),
        (
            [("Relu", ["x"], ["r"], {}), norm("r", "y", "bn")],
            {"y": 4},
            statistics("bn", 4),
            {},
            "no convolution in front of it",
        ),
        (
            [CONV, norm("c", "y", "bn"), ("Relu", ["c"], ["z"], {})],
            {"y": 6, "z": 6},
            W | statistics("bn"),
            {},
            "another node reads the convolution",
        ),
        (
            [CONV, norm("c", "y", "bn")],
            {"y": 6, "c": 6},
            W | statistics("bn"),
            {},
            "another node reads the convolution",
        ),
        ([CONV, norm("c", "y", "bn")], {"y": 6}, statistics("bn"), W, "weights or statistics are computed"),
        (
            [CONV, norm("c", "y", "bn")],
            {"y": 6},
            W | {k: v for k, v in statistics("bn").items() if "gamma" not in k},
            {"bn.gamma": noise(6)},
            "weights or statistics are computed",
        ),
    ],
)
def test_a_batch_norm_that_cannot_be_folded_stays_with_its_reason(nodes, outputs, constants, feeds, reason):
    ends = {"x": X.shape} | {name: array.shape for name, array in feeds.items()}
    model = make(nodes, ends, {name: [1, channels, 5, 5] for name, channels in outputs.items()}, constants)
    before, there = run(model, x=X, **feeds), kinds(model)
    assert why_not(node_of(model, "BatchNormalization")) == reason
    assert fold_batch_norm(model) == 0 and kinds(model) == there
    assert_same(before, run(model, x=X, **feeds))
