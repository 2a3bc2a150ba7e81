"""One session for many trials of thresholds: every tensor that may be INT8 has a gate and a scale as inputs.

    x -> If(gate) -> QuantizeLinear, DequantizeLinear (scale)   or   x as it is

So a trial is a run and not a new session: ONNX Runtime takes a third of a second to make one of D0, and less than a
tenth to run it. Only activations are rounded; the weights stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from calibration.onnx_file import insert_behind, session
from calibration.placement import Plan
from calibration.thresholds import INT8_MAX
from calibration.trial import Trials

FLOAT, BOOL, INT8 = (ir.TensorType(kind) for kind in (ir.DataType.FLOAT, ir.DataType.BOOL, ir.DataType.INT8))


class Gates:
    """The damage of any choice of thresholds, by group of tensors (Plan.groups)."""

    def __init__(self, model: ir.Model, plan: Plan, trials: Trials) -> None:
        """`plan` is of `model`, which stays as it is."""
        self.groups, self.trials = plan.groups, trials
        gated = model.clone()
        nodes = {node.name: node for node in gated.graph}
        scalars = [(_scalar(f"scale.{i}", FLOAT), _scalar(f"gate.{i}", BOOL)) for i in range(len(plan.groups))]
        gated.graph.inputs.extend(value for pair in scalars for value in pair)
        zero_point = Tape(gated.graph).initializer(ir.tensor(np.array(0, np.int8), name="gates.zero_point"))
        group_of = {name: index for index, group in enumerate(plan.groups) for name in group}
        behind: dict[ir.Value, ir.Value] = {}
        for reader, index in plan.reads:
            node = nodes[reader.name]
            value = node.inputs[index]
            assert value is not None and value.name is not None
            if value not in behind:
                behind[value] = _gate(gated.graph, value, *scalars[group_of[value.name]], zero_point)
            node.replace_input_with(index, behind[value])
        self.session = session(gated)

    def damage(self, thresholds: Mapping[int, float]) -> float:
        """The mean damage with the groups of `thresholds` (by index) in INT8 and all others in float."""
        gates = {f"gate.{index}": np.array(index in thresholds) for index in range(len(self.groups))}
        scales = {
            f"scale.{index}": np.array(thresholds.get(index, INT8_MAX) / INT8_MAX, np.float32)
            for index in range(len(self.groups))
        }
        return float(np.mean(self.trials.each(lambda _, feeds: self.session.run(None, {**feeds, **gates, **scales}))))


def _scalar(name: str, kind: ir.TensorType) -> ir.Value:
    return ir.Value(name=name, type=kind, shape=ir.Shape([]))


def _gate(graph: ir.Graph, value: ir.Value, scale: ir.Value, gate: ir.Value, zero_point: ir.Value) -> ir.Value:
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
