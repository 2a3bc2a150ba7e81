"""One session for many trials of thresholds: every tensor that may be INT8 has a gate and its step as inputs.

    x -> If(gate) -> QuantizeLinear, DequantizeLinear (scale, zero point)   or   x as it is

So a trial is a run and not a new session: ONNX Runtime takes a third of a second to make one of D0, and less than a
tenth to run it. Only activations are rounded; the weights stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from calibration.onnx_file import insert_behind, session
from calibration.placement import Plan
from calibration.thresholds import INT8_MAX, step
from calibration.trial import Trials

FLOAT, BOOL, INT8 = (ir.TensorType(kind) for kind in (ir.DataType.FLOAT, ir.DataType.BOOL, ir.DataType.INT8))


class Gates:
    """The damage of any choice of thresholds, by group of tensors (Plan.groups)."""

    def __init__(self, model: ir.Model, plan: Plan, trials: Trials, lows: Sequence[float | None] | None = None) -> None:
        """`plan` is of `model`, which stays as it is; `lows` are the lowest values of its groups, where they may have
        zero points."""
        self.groups, self.trials = plan.groups, trials
        self.lows = [None] * len(plan.groups) if lows is None else lows
        gated = model.clone()
        nodes = {node.name: node for node in gated.graph}
        kinds = {"gate": BOOL, "scale": FLOAT, "zero_point": INT8}
        scalars = [
            [_scalar(f"{name}.{index}", kind) for name, kind in kinds.items()] for index in range(len(plan.groups))
        ]
        gated.graph.inputs.extend(value for group in scalars for value in group)
        group_of = {name: index for index, group in enumerate(plan.groups) for name in group}
        behind: dict[ir.Value, ir.Value] = {}
        for reader, index in plan.reads:
            node = nodes[reader.name]
            value = node.inputs[index]
            assert value is not None and value.name is not None
            if value not in behind:
                behind[value] = _gate(gated.graph, value, *scalars[group_of[value.name]])
            node.replace_input_with(index, behind[value])
        self.session = session(gated)

    def damage(self, thresholds: Mapping[int, float]) -> float:
        """The mean damage with the groups of `thresholds` (by index) in INT8 and all others in float."""
        given: dict[str, np.ndarray] = {}
        for index, low in enumerate(self.lows):
            scale, zero_point = step(thresholds.get(index, INT8_MAX), low)
            given[f"gate.{index}"] = np.array(index in thresholds)
            given[f"scale.{index}"] = np.array(scale, np.float32)
            given[f"zero_point.{index}"] = np.array(zero_point, np.int8)
        return float(np.mean(self.trials.each(lambda _, feeds: self.session.run(None, {**feeds, **given}))))


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
