"""Replaces an integer division that is written as a product of floats by ONNX's integer Div.

    Cast(x -> float32) * (1 + 2^-22) / n, Cast -> int64    ->    x / n

`DetectorGraph` (models/engine_graph.py) writes it so because PyTorch's exporter makes five nodes of `x // n`. For
whole x from 0 up to 2^22 / n both are the same. But TensorRT 8 with its FP16 flag may compute the product in FP16,
which holds whole numbers up to 2048 only: of 90 classes it would give a third of all candidates another class or anchor
(NVIDIA/TensorRT#2996 and #2680 report the pattern). It never does so to integers.

1. The product has one reader, the Cast to int64, and its other input is the Cast of an int64 to float32.
2. The constant is (1 + 2^-22) / n in float32 for a whole n.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

INT64, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT
EXCESS = 1 + 2.0**-22


def divisor(product: ir.Node) -> int | None:
    """Returns n where `product` and the two Casts around it divide by n, or None."""
    source, factor = product.inputs
    cast = source.producer() if source is not None else None
    if factor is None or factor.const_value is None or factor.const_value.size != 1 or not _casts_to(cast, FLOAT):
        return None
    assert cast is not None
    number, readers = cast.inputs[0], product.outputs[0].consumers()
    if number is None or number.dtype != INT64 or len(readers) != 1 or not _casts_to(readers[0], INT64):
        return None
    value = np.float32(factor.const_value.numpy().item())
    n = round(EXCESS / float(value)) if value > 0 else 0
    return n if n > 0 and value == np.float32(EXCESS / n) else None


def _casts_to(node: ir.Node | None, dtype: ir.DataType) -> bool:
    return node is not None and node.op_type == "Cast" and node.attributes["to"].as_int() == int(dtype)


def divide_integers(model: ir.Model) -> int:
    """Applies the rules to the graph; returns the number of divisions. The Casts and the product are left unread."""
    divided = 0
    for product in list(model.graph):
        n = divisor(product) if product.op_type == "Mul" else None
        if n is None:
            continue
        number = product.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
        quotient = product.outputs[0].consumers()[0]
        tape = Tape(model.graph)
        count = tape.initializer(ir.tensor(np.array(n, np.int64), name=f"{quotient.name}.divisor"))
        result = ir.Value(name=f"{quotient.outputs[0].name}.quotient", type=ir.TensorType(INT64))
        result.shape = quotient.outputs[0].shape
        model.graph.insert_after(
            quotient, ir.node("Div", [number, count], outputs=[result], name=f"{quotient.name}.div")
        )
        quotient.outputs[0].replace_all_uses_with(result)
        divided += 1
    return divided
