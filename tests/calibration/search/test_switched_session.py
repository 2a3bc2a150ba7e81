"""A switch that is on computes what the pair of the Q/DQ pass computes, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.placement import make_plan
from effedge.calibration.placement.insert import InsertQDQPass
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.search.switched_session import SwitchedTrials
from effedge.calibration.search.trials import Trials
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]


def shared_scale() -> Network:
    """A graph input that is read as INT8, and a Concat whose parts share its scale."""
    net = Network(3)
    x = net.input("x", [1, 4, 8, 8])
    a = net.silu(net.conv(x, "first", 4, 4, kernel=3), "act")
    deep = net.silu(net.conv(a, "deep", 4, 4, kernel=3, group=4), "deep_act")
    joined = net.node("Concat", [a, deep], "joined", axis=1)
    one = net.conv(deep, "one", 4, 4)
    net.output(net.node("Add", [net.conv(joined, "two", 8, 4), one], "sum"), [1, 4, 8, 8])
    return net


CASES: dict[str, tuple[Callable[[], Network], Samples]] = {
    "MBConv": (networks.classifier, networks.as_samples(networks.feeds(3, seed=4))),
    "any batch": (lambda: networks.classifier("N"), networks.as_samples(networks.feeds(2, seed=4, batch=2))),
    "shared scale": (shared_scale, networks.as_samples(networks.normal_runs(3, (1, 4, 8, 8)))),
}


def error(reference: ir.Model, changed: ir.Model, samples: Samples, run: Run) -> float:
    """Squared error over variance at the one output, of all samples together: about the mean of vectors, or that of
    each channel of a map."""
    wanted, got = (
        np.stack([run(model, feeds, optimized=False)[0].astype(np.float64) for _, feeds in samples])
        for model in (reference, changed)
    )
    mean = wanted.mean() if wanted.ndim == 3 else wanted.mean(axis=(0, 1, 3, 4), keepdims=True)
    return float(np.square(wanted - got).sum() / np.square(wanted - mean).sum())


def inserted(model: ir.Model, thresholds: dict[int, float], lows: Sequence[float | None] = ()) -> ir.Model:
    """The model with Q/DQ on the activations of these groups, and rounded weights in the layers that read them."""
    changed = model.clone()
    plan = make_plan(changed)
    by_name = {name: value for index, value in thresholds.items() for name in plan.groups[index]}
    reads = [(node, index) for node, index in plan.reads if node.inputs[index].name in by_name]
    low_of = {name: low for group, low in zip(plan.groups, lows, strict=False) for name in group}
    layers = [layer for layer in plan.layers if layer.data.name in by_name]
    InsertQDQPass(reads, by_name, layers, low_of)(changed)
    return changed


@pytest.mark.parametrize("case", CASES)
def test_with_all_switches_off_it_is_the_float_model(load: Load, case: str) -> None:
    make, samples = CASES[case]
    model = load(make())
    assert SwitchedTrials(model, make_plan(model), Trials(model, samples)).output_error({}) == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("low", [None, -0.1])
@pytest.mark.parametrize("case", CASES)
def test_a_switch_that_is_on_is_the_pair_that_the_pass_inserts(
    load: Load, run_ort: Run, case: str, low: float | None
) -> None:
    make, samples = CASES[case]
    model = load(make())
    plan = make_plan(model)
    lows = [low] * len(plan.groups)
    switched = SwitchedTrials(model, plan, Trials(model, samples), lows)
    limits = np.random.default_rng(0).uniform(0.3, 2, len(plan.groups))  # low enough to clip
    trials = [{index: limit} for index, limit in enumerate(limits)] + [dict(enumerate(limits))]
    errors = [error(model, inserted(model, thresholds, lows), samples, run_ort) for thresholds in trials]
    assert [switched.output_error(thresholds) for thresholds in trials] == pytest.approx(errors, rel=0.01)
    isolated = {index: list[float]() for index in range(len(limits))}
    for index, each in switched.isolate(dict(enumerate(limits))):
        isolated[index].append(each)
    assert [np.mean(isolated[index]) for index in isolated] == pytest.approx(errors[:-1], rel=0.01)
    for index, limit in enumerate(limits):
        assert list(switched.isolated_errors(index, limit)) == pytest.approx(isolated[index], rel=1e-3)
    assert min(errors) > 1e-6 and switched.output_error({}) < 1e-9, "the trials before leave a mark"


def test_a_group_is_one_switch(load: Load) -> None:
    model = load(shared_scale())
    plan = make_plan(model)
    assert sorted(map(len, plan.groups)) == [1, 3]
    switched = SwitchedTrials(model, plan, Trials(model, CASES["shared scale"][1]))
    switched.output_error({})
    assert switched.full is not None
    names = {value.name for value in switched.full[1].session.get_inputs()}
    assert names == {"x", *(f"{kind}.{group}" for kind in ("switch", "scale", "zero_point") for group in (0, 1))}


def test_the_model_stays_as_it_was(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    before = ir.to_proto(model).SerializeToString()
    SwitchedTrials(model, make_plan(model), Trials(model, samples)).output_error({0: 1.0})
    assert ir.to_proto(model).SerializeToString() == before


def test_trials_measure_a_candidate_as_its_outputs_say(load: Load, samples: Samples, run_ort: Run) -> None:
    model = load(networks.classifier())
    changed = inserted(model, {0: 100.0, 3: 0.5})
    assert Trials(model, samples).output_error(changed) == pytest.approx(
        error(model, changed, samples, run_ort), rel=0.01
    )
    assert Trials(model, samples).output_error(model) == 0
