"""Tries thresholds in one session: every tensor that may be INT8 has a switch, a scale and a zero point as inputs.

    x -> If(switch) -> QuantizeLinear, DequantizeLinear (scale, zero point)   or   x as it is

So a trial is a run and not a new session: ONNX Runtime takes a third of a second to make one of D0, and less than a
tenth to run it. The weights of the layers that read an INT8 tensor are rounded too, as a layer may lose more by its
weights than by what it reads. They are constants of the session, because ONNX Runtime computes convolutions with other
weights far slower; so other groups in INT8 are another session.

Where one group of tensors is tried by itself, everything before it is the float model, and its results on a few samples
can be kept (submodel.py). And a switch that is off still copies its tensor: all switches of D0 make a run half as long
again. So such trials have sessions of their own, each with the switches of a part of the groups, that begin at the node
that first reads a tensor of the part. There the few layers of the part have a switch for their weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from effedge.calibration.graph.onnx_file import insert_behind
from effedge.calibration.graph.session import Arrays, session, side_by_side, threads_of_run
from effedge.calibration.placement import Plan
from effedge.calibration.placement.insert import RoundedWeight, int8_weight
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.thresholds import INT8_MAX, quantization_parameters
from effedge.calibration.search.submodel import Submodel, cut_before, submodels
from effedge.calibration.search.trials import Trials

FLOAT, BOOL, INT8 = (ir.TensorType(kind) for kind in (ir.DataType.FLOAT, ir.DataType.BOOL, ir.DataType.INT8))
PARTS = 8
PART_BYTES = 3 << 26  # 192 MiB: of all samples, where a part begins


class SwitchedTrials:
    """Measures the output error of any thresholds, by scale group (Plan.groups).

    Args:
        plan: of `model`, which stays as it is.
        lows: the lowest value of each group that may have a zero point; None if no group may.
        weights: of layers by their names, where they are not rounded to the nearest.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        trials: Trials,
        lows: Sequence[float | None] | None = None,
        weights: Mapping[str, RoundedWeight] = MappingProxyType({}),
    ) -> None:
        self.model, self.plan, self.trials, self.weights = model, plan, trials, weights
        self.lows = [None] * len(plan.groups) if lows is None else lows
        self.full: tuple[frozenset[int], SwitchedSession] | None = None  # for the groups that were tried last
        self.parts: dict[int, NetworkPart] = {}  # by group, of those that `isolate` tried

    @property
    def samples(self) -> int:
        """The number of samples of a trial."""
        return len(self.trials.feeds)

    def output_error(self, thresholds: Mapping[int, float]) -> float:
        """Returns the mean of `errors`."""
        return float(np.mean(list(self.errors(thresholds))))

    def errors(self, thresholds: Mapping[int, float]) -> Iterator[float]:
        """Computes the output error of each sample with the groups of `thresholds` (by index) in INT8 and all others in
        float."""
        groups = frozenset(thresholds)
        if self.full is None or self.full[0] != groups:
            every = range(len(self.plan.groups))
            self.full = groups, SwitchedSession(self.model, self.plan, self.weights, every, rounded=groups)
        switched = self.full[1]
        return self.trials.output_errors(switched.session, self.trials.feeds, self._switches(switched, thresholds))

    def isolate(
        self, thresholds: Mapping[int, float], samples: Sequence[int] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Computes the output error of each sample, or of some, with each group of `thresholds` in INT8 by itself.

        Returns:
            (group, output error) of each group and sample, the groups along the network.
        """
        samples = range(self.samples) if samples is None else samples
        parts = parts_of(self.model, self.plan, thresholds)
        starts = submodels(self.model, [start for _, start in parts], self.trials.feeds, PART_BYTES)

        def errors_in(members: list[int], submodel: Submodel) -> list[tuple[int, float]]:
            switched = SwitchedSession(self.model, self.plan, self.weights, members, submodel.start)
            self.parts.update(dict.fromkeys(members, NetworkPart(switched, submodel.feeds)))
            errors = []
            for group in members:
                switches = self._switches(switched, {group: thresholds[group]})
                for sample in samples:
                    feeds = {**submodel.feeds[sample], **switches}
                    errors.append((group, self.trials.error_of(sample, switched.session, feeds)))
            return errors

        pairs = [(members, submodel) for (members, _), submodel in zip(parts, starts, strict=True)]
        # Parts go side by side: while Python makes the session of one, on one core, the other core runs another.
        for errors in side_by_side(lambda pair: errors_in(*pair), pairs, threads_of_run(self.model)):
            yield from errors

    def isolated_errors(self, group: int, threshold: float) -> Iterator[float]:
        """Computes the output error of each sample with a group in INT8 by itself, at another threshold than `isolate`
        tried."""
        switched, feeds = self.parts[group]
        return self.trials.output_errors(switched.session, feeds, self._switches(switched, {group: threshold}))

    def forget_parts(self) -> None:
        """Frees the sessions for groups by themselves and the tensors that they begin with."""
        self.parts.clear()

    def _switches(self, switched: SwitchedSession, thresholds: Mapping[int, float]) -> Arrays:
        """Makes the feeds of a session's switches."""
        parameters = {
            index: quantization_parameters(thresholds.get(index, INT8_MAX), self.lows[index])
            for index in switched.groups
        }
        return {
            f"{kind}.{index}": array
            for index, (scale, zero_point) in parameters.items()
            for kind, array in (
                ("switch", np.array(index in thresholds)),
                ("scale", np.array(scale, np.float32)),
                ("zero_point", np.array(zero_point, np.int8)),
            )
        }


class NetworkPart(NamedTuple):
    """A session for the groups of a part of the network, and its feeds for each sample."""

    switched: SwitchedSession
    feeds: list[Arrays]


class SwitchedSession:
    """A session of the model from its node `start` on, with the switches of some groups, by index.

    Args:
        weights: as of SwitchedTrials.
        rounded: the groups whose layers have rounded weights; None: the weights have the switches of their groups.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        weights: Mapping[str, RoundedWeight],
        groups: Sequence[int],
        start: int = 0,
        rounded: Collection[int] | None = None,
    ) -> None:
        self.groups = groups
        switched = model.clone()
        nodes = {node.name: node for node in switched.graph}
        cut_before(switched, start)
        kinds = {"switch": BOOL, "scale": FLOAT, "zero_point": INT8}
        scalars = {index: [_scalar(f"{name}.{index}", kind) for name, kind in kinds.items()] for index in groups}
        switched.graph.inputs.extend(value for group in scalars.values() for value in group)
        group_of = {name: index for index in groups for name in plan.groups[index]}
        outputs: dict[ir.Value, ir.Value] = {}
        for reader, index in plan.reads:
            node = nodes[reader.name]
            value = node.inputs[index]
            if value is None or value.name not in group_of:
                continue
            if value not in outputs:
                outputs[value] = _insert_switch(switched.graph, value, *scalars[group_of[value.name]])
            node.replace_input_with(index, outputs[value])
        for layer in plan.layers:
            group = group_of.get(layer.data.name or "")
            if group is None or (rounded is not None and group not in rounded):
                continue
            weight = _rounded_weight(switched.graph, layer, weights)
            if rounded is None:
                weight = _choose_weight(switched.graph, nodes[layer.name], weight, scalars[group][0])
            nodes[layer.name].replace_input_with(1, weight)
        common.RemoveUnusedNodesPass()(switched)  # weights before `start`, and those in whose place rounded ones are
        self.session = session(switched)


def parts_of(model: ir.Model, plan: Plan, groups: Collection[int]) -> list[tuple[list[int], int]]:
    """Divides some groups into at most PARTS parts along the model; returns the members of each part, and the position
    of the first node that reads one of their tensors."""
    position = {node.name: index for index, node in enumerate(model.graph)}
    group_of = {name: index for index, group in enumerate(plan.groups) for name in group}
    first = [len(position)] * len(plan.groups)
    for reader, index in plan.reads:
        value = reader.inputs[index]
        assert value is not None
        group = group_of[value.name or ""]
        first[group] = min(first[group], position[reader.name])
    order = sorted(groups, key=first.__getitem__)
    parts = np.array_split(order, max(1, min(PARTS, len(order))))
    return [(part.tolist(), first[part[0]]) for part in parts if len(part)]


def _scalar(name: str, kind: ir.TensorType) -> ir.Value:
    return ir.Value(name=name, type=kind, shape=ir.Shape([]))


def _insert_switch(
    graph: ir.Graph, value: ir.Value, switch: ir.Value, scale: ir.Value, zero_point: ir.Value
) -> ir.Value:
    """Inserts a switch behind `value`; returns the switch's output."""
    quantized, rounded, output = (
        ir.Value(name=f"{value.name}.{part}", type=INT8 if part == "int8" else FLOAT, shape=value.shape)
        for part in ("int8", "rounded", "switched")
    )
    pair: Sequence[ir.Node] = [
        ir.node("QuantizeLinear", [value, scale, zero_point], outputs=[quantized]),
        ir.node("DequantizeLinear", [quantized, scale, zero_point], outputs=[rounded]),
    ]
    branches = {
        "then_branch": ir.Graph([], [rounded], nodes=pair, name=f"{value.name}.then"),
        "else_branch": _unchanged(value, f"{value.name}.same"),
    }
    insert_behind(graph, value, ir.node("If", [switch], branches, outputs=[output], name=f"{value.name}.switch"))
    return output


def _rounded_weight(graph: ir.Graph, layer: Layer, weights: Mapping[str, RoundedWeight]) -> ir.Value:
    """Adds a layer's weights to the graph, as INT8 holds them."""
    quantized, scale = int8_weight(layer, weights)
    shape = [-1 if axis == layer.axis else 1 for axis in range(quantized.ndim)]
    array = quantized * scale.reshape(shape)
    return Tape(graph).initializer(ir.tensor(array, name=f"{layer.name}.rounded_weight"))


def _choose_weight(graph: ir.Graph, node: ir.Node, rounded: ir.Value, switch: ir.Value) -> ir.Value:
    """Inserts the choice between a node's weights and the rounded ones in front of it; returns its output."""
    weight = node.inputs[1]
    assert weight is not None
    branches = {
        "then_branch": _unchanged(rounded, f"{node.name}.then_weight"),
        "else_branch": _unchanged(weight, f"{node.name}.else_weight"),
    }
    output = ir.Value(name=f"{node.name}.switched_weight", type=FLOAT, shape=rounded.shape)
    graph.insert_before(node, ir.node("If", [switch], branches, outputs=[output], name=output.name))
    return output


def _unchanged(value: ir.Value, name: str) -> ir.Graph:
    """Makes the branch of an If that returns a value from outside of it, under a name of its own."""
    same = ir.Value(name=name, type=FLOAT, shape=value.shape)
    return ir.Graph([], [same], nodes=[ir.node("Identity", [value], outputs=[same])], name=f"{name}.branch")
