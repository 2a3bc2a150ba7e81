"""Moves a Pad into the operator behind it, so that no target runs a separate kernel for it.

1. Conv(Pad(x, zeros)) = Conv(x) with the pads added to its own.
2. MaxPool(Pad(x, -inf)) = MaxPool(x) with the pads added, because ONNX pads a MaxPool by minus infinity.

Only spatial pads move, and only if the Pad has no other reader. A MaxPool's pads must be smaller than its kernel, its
positions (the second output) must not change, and with ceil_mode a window may not begin in the padding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

PAD_VALUE = {"Conv": 0.0, "MaxPool": -np.inf}


def why_not(pad: ir.Node, reader: ir.Node) -> str | None:
    """Returns the reason why `pad` cannot move into `reader`, or None if it can."""
    if reader.op_type not in PAD_VALUE:
        return f"{reader.op_type} does not pad"
    if reader.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return f"{reader.op_type} works out its own pads"
    if len(pad.outputs[0].uses()) != 1 or pad.outputs[0].is_graph_output():
        return "another node reads the padded tensor"
    if pad.attributes.get_string("mode", "constant") != "constant":
        return "the padding is no constant"
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return "it names the axes that it pads"
    pads, value = pad.inputs[1], pad.inputs[2] if len(pad.inputs) > 2 else None
    if pads is None or pads.const_value is None or (value is not None and value.const_value is None):
        return "pads or value are computed"
    fill = 0.0 if value is None or value.const_value is None else float(value.const_value.numpy())
    if fill != PAD_VALUE[reader.op_type]:
        return f"{reader.op_type} does not pad by {fill}"
    amounts = pads.const_value.numpy()
    rank = len(amounts) // 2
    if amounts[:2].any() or amounts[rank : rank + 2].any() or (amounts < 0).any():
        return "batch or channels are padded, or pixels cut off"
    return why_not_pool(reader, own_pads(reader, amounts)) if reader.op_type == "MaxPool" else None


def why_not_pool(pool: ir.Node, pads: np.ndarray) -> str | None:
    """Returns the reason why a MaxPool cannot have these pads, or None if it can."""
    if pool.attributes.get_int("ceil_mode", 0):
        return "with ceil_mode, MaxPool has other windows"
    if len(pool.outputs) > 1:
        return "MaxPool counts positions without the pad"
    kernel = pool.attributes.get_ints("kernel_shape", [])
    return "MaxPool pads less than its kernel" if (pads >= np.tile(kernel, 2)).any() else None


def own_pads(reader: ir.Node, amounts: np.ndarray) -> np.ndarray:
    """Returns the spatial pads of a reader, begins and ends, with those of a Pad added."""
    rank = len(amounts) // 2
    spatial = np.concatenate([amounts[2:rank], amounts[rank + 2 :]])
    return spatial + np.array(reader.attributes.get_ints("pads", [0] * len(spatial)))


def fuse_pad(model: ir.Model) -> int:
    """Applies the rules to the graph; returns the number of Pads that moved."""
    fused = 0
    for reader in list(model.graph):
        source = reader.inputs[0] if reader.inputs else None
        pad = source.producer() if source is not None else None
        if pad is None or pad.op_type != "Pad" or why_not(pad, reader):
            continue
        amounts = pad.inputs[1].const_value.numpy()  # type: ignore[union-attr]
        reader.attributes["pads"] = ir.AttrInt64s("pads", own_pads(reader, amounts).tolist())
        reader.replace_input_with(0, pad.inputs[0])
        model.graph.remove(pad, safe=True)
        fused += 1
    return fused
