"""The end of a model by itself computes what the whole model does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph.session import session
from effedge.calibration.search.submodel import cut_before, submodels
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
PLENTY = 1 << 30


def two_outputs() -> Network:
    """The input is read twice, far apart; one output is written early."""
    net = Network(5)
    x = net.input("x", [1, 4, 8, 8])
    early = net.node("Sigmoid", [net.conv(x, "first", 4, 4)], "early")
    net.output(early, [1, 4, 8, 8])
    late = net.silu(net.conv(net.silu(early, "act"), "second", 4, 4, kernel=3), "late")
    net.output(net.node("Add", [late, x], "sum"), [1, 4, 8, 8])
    return net


@pytest.mark.parametrize("make", [networks.classifier, two_outputs])
def test_from_every_node_on_it_computes_the_same(load: Load, make: Callable[[], Network]) -> None:
    model = load(make())
    feeds = [each for _, each in networks.as_samples(networks.feeds(2, seed=4))]
    if make is two_outputs:
        feeds = networks.normal_runs(2, (1, 4, 8, 8))
    before = ir.to_proto(model).SerializeToString()
    wanted = [session(model).run(None, each) for each in feeds]
    positions = range(len(model.graph))
    starts = []
    for start, submodel_feeds in submodels(model, positions, feeds, PLENTY):
        submodel = model.clone()
        cut_before(submodel, start)
        assert len(submodel.graph) == len(model.graph) - start
        starts.append(start)
        for each, outputs in zip(submodel_feeds, wanted, strict=True):
            for one, other in zip(session(submodel).run(None, each), outputs, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    last = len(model.graph) - 1 if make is networks.classifier else 1  # `early` is written by the second node
    assert starts == [min(start, last) for start in positions]
    assert ir.to_proto(model).SerializeToString() == before


def test_where_it_would_hold_too_much_the_whole_model_serves(load: Load) -> None:
    model = load(networks.classifier())
    feeds = [each for _, each in networks.as_samples(networks.feeds(3, seed=4))]
    sizes = {
        start: sum(array.nbytes for each in submodel_feeds for array in each.values())
        for start, submodel_feeds in submodels(model, [4, 5], feeds, PLENTY)
    }
    large, small = sorted(sizes, key=sizes.__getitem__, reverse=True)
    assert sizes[large] > sizes[small]
    for room, starts in ((sizes[large], {large, small}), (sizes[large] - 1, {0, small}), (sizes[small] - 1, {0})):
        found = submodels(model, [large, small], feeds, room)
        assert {each.start for each in found} == starts
        assert all(each.feeds == feeds for each in found if each.start == 0)
