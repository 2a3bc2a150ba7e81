"""One session for many trials of thresholds: every tensor that may be INT8 has a gate and its step as inputs.

    x -> If(gate) -> QuantizeLinear, DequantizeLinear (scale, zero point)   or   x as it is

So a trial is a run and not a new session: ONNX Runtime takes a third of a second to make one of D0, and less than a
tenth to run it. Only activations are rounded; the weights stay float.

Where one group of tensors is tried by itself, all in front of it is the float model, and of a few samples that can be
kept (tail.py). And a gate that is off still copies its tensor: all of D0's make a run half as long again. So such
trials have sessions of their own, each with the gates of a part of the groups, that begin where those are first read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import insert_behind, session
from effedge.calibration.placement import Plan
from effedge.calibration.ranges.thresholds import INT8_MAX, step
from effedge.calibration.search.submodel import cut, held_at
from effedge.calibration.search.trials import Trials
from effedge.calibration.weights.layered_run import Arrays

FLOAT, BOOL, INT8 = (ir.TensorType(kind) for kind in (ir.DataType.FLOAT, ir.DataType.BOOL, ir.DataType.INT8))
PARTS = 8
PART_BYTES = 3 << 26  # 192 MiB: of all samples, where a part begins


class Gates:
    """The damage of any choice of thresholds, by group of tensors (Plan.groups)."""

    def __init__(self, model: ir.Model, plan: Plan, trials: Trials, lows: Sequence[float | None] | None = None) -> None:
        """`plan` is of `model`, which stays as it is; `lows` are the lowest values of its groups, where they may have
        zero points."""
        self.model, self.plan, self.trials = model, plan, trials
        self.lows = [None] * len(plan.groups) if lows is None else lows
        self.whole = Gated(model, plan, range(len(plan.groups)))
        self.parts: dict[int, tuple[Gated, list[Arrays]]] = {}  # of a group, when it was first tried by itself

    def damage(self, thresholds: Mapping[int, float]) -> float:
        """The mean damage with the groups of `thresholds` (by index) in INT8 and all others in float."""
        return self._mean(self.whole, self.trials.feeds, thresholds)

    def alone(self, group: int, threshold: float) -> float:
        """The same of one group by itself."""
        if group not in self.parts:
            members, start = next(part for part in parts_of(self.model, self.plan) if group in part[0])
            start, held = held_at(self.model, start, self.trials.feeds, PART_BYTES)
            part = Gated(self.model, self.plan, members, start)
            self.parts.update((member, (part, held)) for member in members)
        return self._mean(*self.parts[group], {group: threshold})

    def _mean(self, gated: Gated, feeds: Sequence[Arrays], thresholds: Mapping[int, float]) -> float:
        steps = {index: step(thresholds.get(index, INT8_MAX), self.lows[index]) for index in gated.groups}
        given = {
            f"{kind}.{index}": array
            for index, (scale, zero_point) in steps.items()
            for kind, array in (
                ("gate", np.array(index in thresholds)),
                ("scale", np.array(scale, np.float32)),
                ("zero_point", np.array(zero_point, np.int8)),
            )
        }
        return float(np.mean(self.trials.each(lambda _, each: gated.session.run(None, {**each, **given}), feeds)))


class Gated:
    """A session of the model from its node `start` on, with the gates of some groups, by index."""

    def __init__(self, model: ir.Model, plan: Plan, groups: Sequence[int], start: int = 0) -> None:
        self.groups = groups
        gated = model.clone()
        nodes = {node.name: node for node in gated.graph}
        cut(gated, start)
        kinds = {"gate": BOOL, "scale": FLOAT, "zero_point": INT8}
        scalars = {index: [_scalar(f"{name}.{index}", kind) for name, kind in kinds.items()] for index in groups}
        gated.graph.inputs.extend(value for group in scalars.values() for value in group)
        group_of = {name: index for index in groups for name in plan.groups[index]}
        behind: dict[ir.Value, ir.Value] = {}
        for reader, index in plan.reads:
            node = nodes[reader.name]
            value = node.inputs[index]
            if value is None or value.name not in group_of:
                continue
            if value not in behind:
                behind[value] = _gate(gated.graph, value, *scalars[group_of[value.name]])
            node.replace_input_with(index, behind[value])
        self.session = session(gated)


def parts_of(model: ir.Model, plan: Plan) -> list[tuple[list[int], int]]:
    """The groups in at most PARTS parts along the model: the members, and the position of the first node that reads
    one of their tensors."""
    position = {node.name: index for index, node in enumerate(model.graph)}
    group_of = {name: index for index, group in enumerate(plan.groups) for name in group}
    first = [len(position)] * len(plan.groups)
    for reader, index in plan.reads:
        value = reader.inputs[index]
        assert value is not None
        group = group_of[value.name or ""]
        first[group] = min(first[group], position[reader.name])
    order = np.argsort(first, kind="stable")
    return [(part.tolist(), first[part[0]]) for part in np.array_split(order, min(PARTS, len(order)))]


def _scalar(name: str, kind: ir.TensorType) -> ir.Value:
    return ir.Value(name=name, type=kind, shape=ir.Shape([]))


def _gate(graph: ir.Graph, value: ir.Value, gate: ir.Value, scale: ir.Value, zero_point: ir.Value) -> ir.Value:
    """Put the gate behind `value`; returns what comes out of it."""
    quantized, rounded, same, output = (
        ir.Value(name=f"{value.name}.{part}", type=INT8 if part == "int8" else FLOAT, shape=value.shape)
        for part in ("int8", "rounded", "same", "gated")
    )
    pair: Sequence[ir.Node] = [
        ir.node("QuantizeLinear", [value, scale, zero_point], outputs=[quantized]),
        ir.node("DequantizeLinear", [quantized, scale, zero_point], outputs=[rounded]),
    ]
    branches = {
        "then_branch": ir.Graph([], [rounded], nodes=pair, name=f"{value.name}.then"),
        "else_branch": ir.Graph(
            [], [same], nodes=[ir.node("Identity", [value], outputs=[same])], name=f"{value.name}.else"
        ),
    }
    choice = ir.node("If", [gate], branches, outputs=[output], name=f"{value.name}.gate")
    insert_behind(graph, value, choice)
    return output
