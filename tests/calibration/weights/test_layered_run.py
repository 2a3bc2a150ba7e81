"""A model run level by level: what is held is what ONNX Runtime gives for the tensor, with the weights of its time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph.session import session
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.layered_run import LayeredRun, layer_depths
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]


def at_once(model: ir.Model, names: list[str], samples: Samples) -> list[dict[str, np.ndarray]]:
    running = session(model, names)
    return [dict(zip(names, running.run(names, feeds), strict=True)) for _, feeds in samples]


def feeds_of(samples: Samples) -> list[dict[str, np.ndarray]]:
    return [feeds for _, feeds in samples]


def read_by(model: ir.Model, layers: list[str]) -> dict[str, str]:
    return {node.name: node.inputs[0].name for node in model.graph if node.name in layers}


CHAIN = ["stem", "block1_expand", "block1_depthwise", "block1_project", "block2_expand", "head", "logits"]


def test_before_each_level_its_layers_inputs_are_held_for_every_sample(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    inputs = read_by(model, CHAIN)
    expected = at_once(model, list(inputs.values()), samples)
    depth = {node.name: level for node, level in layer_depths(model.graph, CHAIN).items() if node.name in CHAIN}
    assert [depth[name] for name in CHAIN] == [1, 2, 3, 4, 5, 6, 7]
    layered_run = LayeredRun(model, CHAIN, feeds_of(samples))
    for name in CHAIN:
        layered_run.advance(depth[name])
        for held, wanted in zip(layered_run.held, expected, strict=True):
            np.testing.assert_allclose(held[inputs[name]], wanted[inputs[name]], rtol=1e-4, atol=1e-5)


def test_samples_that_join_are_computed_to_the_level_of_the_others(load: Load, samples: Samples) -> None:
    model, feeds = load(networks.classifier()), feeds_of(samples)
    together, late = LayeredRun(model, CHAIN, feeds), LayeredRun(model, CHAIN, feeds[:2])
    together.advance(3)
    late.advance(2)
    late.advance(3)
    late.join(feeds[2:])
    for run in (together, late):
        run.advance(5)
    for got, expected in zip(late.held, together.held, strict=True):
        assert set(got) == set(expected) == {"block1_add"}
        np.testing.assert_allclose(got["block1_add"], expected["block1_add"], rtol=1e-5, atol=1e-6)


def test_levels_may_be_left_out(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    [expected] = at_once(model, ["head_act"], samples.spread(1))
    layered_run = LayeredRun(model, ["stem", "pool"], feeds_of(samples.spread(1)))
    layered_run.advance(2)
    np.testing.assert_allclose(layered_run.held[0]["head_act"], expected["head_act"], rtol=1e-4, atol=1e-5)


def test_only_what_is_still_read_is_held(load: Load, samples: Samples) -> None:
    layered_run = LayeredRun(load(networks.classifier()), CHAIN, feeds_of(samples))
    layered_run.advance(5)
    assert set(layered_run.held[0]) == {"block1_add"}
    assert sum(array.nbytes for array in layered_run.held[0].values()) == 4 * 8 * 16 * 16
    layered_run.advance(4 + 3)
    assert set(layered_run.held[0]) == {"flat"}


def test_a_shortcut_is_held_until_it_is_read(load: Load, samples: Samples) -> None:
    layered_run = LayeredRun(load(networks.classifier()), CHAIN, feeds_of(samples))
    for level in (2, 3, 4):
        layered_run.advance(level)
        assert "stem_act" in layered_run.held[0]
    layered_run.advance(5)
    assert "stem_act" not in layered_run.held[0]


def test_a_level_is_computed_with_the_weights_that_it_has_when_it_is_passed(load: Load) -> None:
    net = Network()
    x = net.input("x", [1, 2, 4, 4])
    first = net.conv(x, "first", 2, 2)
    net.output(net.conv(net.node("Relu", [first], "relu"), "second", 2, 2), [1, 2, 4, 4])
    model = load(net)
    samples = networks.as_samples(networks.normal_runs(3, (1, 2, 4, 4)))
    layered_run = LayeredRun(model, ["first", "second"], feeds_of(samples))
    layered_run.advance(1)
    assert all((held["x"] == feeds["x"]).all() for held, (_, feeds) in zip(layered_run.held, samples, strict=True))
    weight = model.graph.initializers["first.weight"]
    weight.const_value = ir.tensor(3 * weight.const_value.numpy(), name="first.weight")
    expected = at_once(model, ["relu"], samples)
    layered_run.advance(2)
    weight.const_value = ir.tensor(0 * weight.const_value.numpy(), name="first.weight")
    for held, wanted in zip(layered_run.held, expected, strict=True):
        np.testing.assert_allclose(held["relu"], wanted["relu"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [[], ["conv"]])
def test_a_graph_input_that_a_layer_behind_the_first_reads_is_kept(load: Load, layers: list[str]) -> None:
    net = Network()
    x, y = net.input("x", [1, 2, 4, 4]), net.input("y", [1, 2, 4, 4])
    net.output(net.conv(net.node("Add", [net.conv(x, "conv", 2, 2), y], "sum"), "last", 2, 2), [1, 2, 4, 4])
    runs = networks.normal_runs(2, (1, 2, 4, 4))
    for run, other in zip(runs, networks.normal_runs(2, (1, 2, 4, 4), seed=1, name="y"), strict=True):
        run.update(other)
    model, samples = load(net), networks.as_samples(runs)
    expected = at_once(model, ["sum"], samples)
    layered_run = LayeredRun(model, [*layers, "last"], feeds_of(samples))
    for level in range(1, len(layers) + 2):
        layered_run.advance(level)
    for held, wanted in zip(layered_run.held, expected, strict=True):
        assert set(held) == {"sum"}
        np.testing.assert_allclose(held["sum"], wanted["sum"], rtol=1e-5, atol=1e-6)
