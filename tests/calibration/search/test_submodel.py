"""The end of a model by itself computes what the whole model does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph.session import session
from effedge.calibration.search.submodel import cut_before, feeds_at
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
    starts = []
    for start in range(len(model.graph)):
        position, submodel_feeds = feeds_at(model, start, feeds, PLENTY)
        submodel = model.clone()
        cut_before(submodel, position)
        assert len(submodel.graph) == len(model.graph) - position
        starts.append(position)
        for each, outputs in zip(submodel_feeds, wanted, strict=True):
            for one, other in zip(session(submodel).run(None, each), outputs, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    last = len(model.graph) - 1 if make is networks.classifier else 1  # `early` is written by the second node
    assert starts == [min(start, last) for start in range(len(model.graph))]
    assert ir.to_proto(model).SerializeToString() == before


def test_where_it_would_hold_too_much_the_whole_model_serves(load: Load) -> None:
    model = load(networks.classifier())
    feeds = [each for _, each in networks.as_samples(networks.feeds(3, seed=4))]
    _, submodel_feeds = feeds_at(model, 4, feeds, PLENTY)
    size = sum(array.nbytes for each in submodel_feeds for array in each.values())
    assert feeds_at(model, 4, feeds, size)[0] == 4
    assert feeds_at(model, 4, feeds, size - 1) == (0, feeds)
