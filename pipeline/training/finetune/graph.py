"""An ONNX graph as a PyTorch module, Q/DQ pairs as fake quantization, whose weights and biases can be trained.

INT8 weights are kept in units of their own step: w = scale * round(v). Rounding passes the gradient straight through
(Bengio, Léonard and Courville 2013; Jacob et al. 2018, section 3), what clips passes none. The steps themselves, of
weights and of activations, stay as calibration chose them, so that what is learnt fits the ONNX that it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.ranges.thresholds import INT8_MAX
from effedge.deploy.common.cli import UserError
from effedge.pipeline.training.finetune.operators import OPERATORS

WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LOWEST = -(INT8_MAX + 1)


class OnnxModule(nn.Module):
    """The part of a model that computes the tensors `outputs`, in float32 arithmetic.

    Attributes:
        steps: the scale of each INT8 weight by its initializer's name, shaped to multiply it.
    """

    def __init__(self, model: ir.Model, outputs: Sequence[str]) -> None:
        """`model` is from effedge.calibration.graph.onnx_file.load, and stays as it is.

        Raises:
            UserError: an operator on the way that PyTorch is not taught here.
        """
        super().__init__()
        self.outputs = list(outputs)
        self.nodes = _needed(model, outputs)
        self.values = nn.ParameterDict()
        self.keys: dict[str, str] = {}  # initializer -> name that PyTorch accepts
        self.constants: dict[str, Tensor] = {}
        self.steps: dict[str, Tensor] = {}
        for node in self.nodes:
            if node.op_type not in (*OPERATORS, "QuantizeLinear", "DequantizeLinear"):
                known = "the network's own layers must be among " + ", ".join(sorted(OPERATORS))
                raise UserError(f"{node.op_type} '{node.name}' cannot be trained through: {known}")
            for index, value in enumerate(node.inputs):
                self._take(node, index, value)

    def _take(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Hold an initializer: as a parameter where it is a layer's weight or bias, else as a constant."""
        array = constant(value)
        if value is None or array is None or value.name in self.keys or value.name in self.constants:
            return
        name = value.name or ""
        if node.op_type == "DequantizeLinear" and index == 0:
            scale = np.asarray(constant(node.inputs[1]))
            axis = node.attributes.get_int("axis", 1)
            shape = [-1 if dimension == axis % array.ndim else 1 for dimension in range(array.ndim)]
            self.steps[name] = torch.from_numpy(scale.copy()).reshape(shape if scale.ndim else [])
            self._learn(name, array.astype(np.float32))
        elif node.op_type in WITH_WEIGHTS and index in (1, 2):
            self._learn(name, array)
        else:
            self.constants[name] = torch.from_numpy(array.copy())

    def _learn(self, name: str, array: np.ndarray) -> None:
        self.keys[name] = name.replace(".", "|")
        self.values[self.keys[name]] = nn.Parameter(torch.from_numpy(array.copy()))

    def forward(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors `outputs` for inputs by name."""
        found: dict[str, Any] = {**self.constants, **feeds}
        for name, key in self.keys.items():
            found[name] = self.values[key]
        for node in self.nodes:
            found[node.outputs[0].name or ""] = self._compute(node, found)
        return [found[name] for name in self.outputs]

    def _compute(self, node: ir.Node, found: Mapping[str, Tensor]) -> Tensor:
        inputs = [None if value is None else found[value.name or ""] for value in node.inputs]
        name = (node.inputs[0].name if node.inputs[0] is not None else "") or ""
        if node.op_type == "QuantizeLinear":  # the pair's DequantizeLinear then has nothing left to do
            x, scale, zero_point = (found[value.name or ""] for value in node.inputs if value is not None)
            return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), LOWEST, INT8_MAX)
        if node.op_type == "DequantizeLinear":
            return self.weight(name) if name in self.steps else inputs[0]  # type: ignore[return-value]
        attributes = {key: each.as_string() if each.type == ir.AttributeType.STRING else each.value
                      for key, each in node.attributes.items()}  # fmt: skip
        try:
            return OPERATORS[node.op_type](inputs, attributes)
        except NotImplementedError as error:
            raise UserError(f"{node.op_type} '{node.name}' cannot be trained through: it has {error}") from error

    def weight(self, name: str) -> Tensor:
        """An INT8 weight as the layer reads it."""
        held = self.values[self.keys[name]].clamp(-INT8_MAX, INT8_MAX)
        return (held + (held.round() - held).detach()) * self.steps[name]

    @torch.no_grad()
    def write(self, model: ir.Model) -> None:
        """Put what was learnt into the initializers of `model`, the one that this came from or its clone."""
        for name, key in self.keys.items():
            value = model.graph.initializers[name]
            array = self.values[key].numpy()
            if name in self.steps:
                array = np.clip(np.rint(array), -INT8_MAX, INT8_MAX).astype(np.int8)
            value.const_value = ir.tensor(array, name=name)


def _needed(model: ir.Model, outputs: Sequence[str]) -> list[ir.Node]:
    """The nodes that the outputs depend on, in order."""
    wanted = set(outputs)
    needed = []
    for node in reversed(model.graph):
        if any(value.name in wanted for value in node.outputs):
            needed.append(node)
            wanted.update(value.name for value in node.inputs if value is not None and value.name)
    return needed[::-1]
