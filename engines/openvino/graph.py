"""Reads and edits operations of an OpenVINO model, for the passes in this folder. `ov` is the module openvino."""

import importlib
import importlib.util
from typing import Any, List, Optional

import numpy as np


def opset(ov: Any) -> Any:
    """Returns the functions that make operations; OpenVINO 2024.4, of Python 3.8, has them elsewhere."""
    return ov.opset13 if hasattr(ov, "opset13") else ov.runtime.opset13


def constant_value(node: Any) -> Optional[np.ndarray]:
    """Returns a constant's value as float32, also through a Convert; None for every other node."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data.astype(np.float32) if node.get_type_name() == "Constant" else None


def per_channel(value: np.ndarray, channels: int) -> Optional[np.ndarray]:
    """Spreads a constant that is combined with [N,C,H,W] to one number per channel; None if its shape is neither a
    scalar's nor [1,C,1,1]."""
    shape = (1,) * (4 - value.ndim) + value.shape
    if shape not in ((1, 1, 1, 1), (1, channels, 1, 1)):
        return None
    return np.broadcast_to(value.reshape(-1), channels).astype(np.float32)


def only_reader(node: Any) -> Optional[Any]:
    """Returns the operation that reads the node's output; None if there is none or more than one."""
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 else None


def sizes_behind_batch(shape: Any) -> Optional[List[int]]:
    """Returns the dimensions behind the first, which is the batch; None where one of them is dynamic."""
    if shape.rank.is_dynamic or any(shape[axis].is_dynamic for axis in range(1, len(shape))):
        return None
    return [shape[axis].get_length() for axis in range(1, len(shape))]


def fold_constants(model: Any) -> None:
    """Computes, in place, everything that depends on constants only."""
    new_location = importlib.util.find_spec("openvino.passes") is not None
    passes = importlib.import_module("openvino.passes" if new_location else "openvino.runtime.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
