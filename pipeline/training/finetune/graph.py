"""Turns an ONNX graph into a PyTorch module with trainable weights and biases; Q/DQ pairs become fake quantization.

All parameters are held in units of their output channel, so that a step of the optimizer moves each by as much of its
own range: INT8 weights in their scale, w = scale * round(v), weights and biases in float in a 127th of the channel's
largest weight. Rounding passes the gradient straight through (Bengio, Léonard and Courville 2013; Jacob et al. 2018,
section 3); clipped values pass none. The scales of weights and of activations stay as calibrated, so that the learnt
weights fit the ONNX that they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.placement.layers import output_axis
from effedge.calibration.ranges.thresholds import INT8_MAX, INT8_MIN
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import LAYER_OPERATORS
from effedge.pipeline.training.finetune.operators import OPERATORS

SMALLEST_UNIT = 1e-3  # of the largest unit of a layer's channels


class OnnxModule(nn.Module):
    """The part of a model that computes the tensors `outputs`, in float32 arithmetic.

    Attributes:
        scales: the scale of each INT8 weight by its initializer's name, shaped to multiply it.
        units: the same of the parameters in float.
    """

    def __init__(self, model: ir.Model, outputs: Sequence[str]) -> None:
        """Reads `model`, which effedge.calibration.graph.onnx_file.load loaded, and leaves it as it is.

        Raises:
            UserError: an operator that OPERATORS does not have.
        """
        super().__init__()
        self.outputs = list(outputs)
        self.nodes = needed_nodes(model, outputs)
        self.values = nn.ParameterDict()
        self.keys: dict[str, str] = {}  # initializer's name -> name that PyTorch accepts
        self.constants: dict[str, Tensor] = {}
        self.scales: dict[str, Tensor] = {}
        self.units: dict[str, Tensor] = {}
        for node in self.nodes:
            if not is_supported(node):
                supported = "the network's own layers must be among " + ", ".join(sorted(OPERATORS))
                raise UserError(f"{node.op_type} '{node.name}' cannot be trained through: {supported}")
            for index, value in enumerate(node.inputs):
                self._add_initializer(node, index, value)

    def _add_initializer(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Adds an initializer: as a parameter where it is a layer's weight or bias, else as a constant."""
        array = constant(value)
        if value is None or array is None or value.name in self.keys or value.name in self.constants:
            return
        name = value.name or ""
        if node.op_type == "DequantizeLinear" and index == 0:
            scale = np.asarray(constant(node.inputs[1]))
            axis = node.attributes.get_int("axis", 1)
            shape = [-1 if dimension == axis % array.ndim else 1 for dimension in range(array.ndim)]
            self.scales[name] = torch.from_numpy(scale.copy()).reshape(shape if scale.ndim else [])
            self._add_parameter(name, array.astype(np.float32))
        elif node.op_type in LAYER_OPERATORS and index in (1, 2):
            self.units[name] = torch.from_numpy(units_of(node, index, array))
            self._add_parameter(name, array / self.units[name].numpy())
        else:
            self.constants[name] = torch.from_numpy(array.copy())

    def _add_parameter(self, name: str, array: np.ndarray) -> None:
        self.keys[name] = name.replace(".", "|")
        self.values[self.keys[name]] = nn.Parameter(torch.from_numpy(array.copy()))

    def forward(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Computes the tensors `outputs` for inputs by name.

        The indices that a TopK finds may be among the inputs: then it takes the elements at these.
        """
        tensors: dict[str, Tensor] = {**self.constants, **feeds}
        tensors.update((name, self.weight(name)) for name in self.keys)
        for node in self.nodes:
            computed = self._compute(node, tensors)
            outputs = (computed,) if isinstance(computed, Tensor) else computed
            tensors.update((value.name or "", tensor) for value, tensor in zip(node.outputs, outputs, strict=False))
        return [tensors[name] for name in self.outputs]

    def _compute(self, node: ir.Node, tensors: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Computes the first output of a node, or all of them, from the tensors by name."""
        inputs = [None if value is None else tensors[value.name or ""] for value in node.inputs]
        if node.op_type == "QuantizeLinear":  # includes the DequantizeLinear of the pair
            x, scale, zero_point = (tensors[value.name or ""] for value in node.inputs if value is not None)
            return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), INT8_MIN, INT8_MAX)
        if node.op_type == "TopK" and (chosen := tensors.get(node.outputs[1].name or "")) is not None:
            return inputs[0].gather(node.attributes.get_int("axis", -1), chosen), chosen  # type: ignore[union-attr]
        if node.op_type == "DequantizeLinear":
            return inputs[0]  # type: ignore[return-value]  # of INT8 weights their values, of a pair its result
        attributes = {key: attribute.as_string() if attribute.type == ir.AttributeType.STRING else attribute.value
                      for key, attribute in node.attributes.items()}  # fmt: skip
        attributes.setdefault("num_outputs", len(node.outputs))  # a Split says it from opset 18 on
        try:
            return OPERATORS[node.op_type](inputs, attributes)
        except NotImplementedError as error:
            raise UserError(f"{node.op_type} '{node.name}' cannot be trained through: it has {error}") from error

    def weight(self, name: str) -> Tensor:
        """Computes the values of a parameter: of an INT8 weight those that its rounded integers stand for."""
        units = self.values[self.keys[name]]
        if name in self.units:
            return units * self.units[name]
        units = units.clamp(-INT8_MAX, INT8_MAX)
        return (units + (units.round() - units).detach()) * self.scales[name]

    @torch.no_grad()
    def write(self, model: ir.Model) -> None:
        """Writes the learnt weights into the initializers of `model`, from which this was made, or of its clone."""
        for name, key in self.keys.items():
            value = model.graph.initializers[name]
            if name in self.scales:
                array = np.clip(np.rint(self.values[key].numpy()), -INT8_MAX, INT8_MAX).astype(np.int8)
            else:
                array = self.weight(name).numpy()
            value.const_value = ir.tensor(array, name=name)


def units_of(node: ir.Node, index: int, array: np.ndarray) -> np.ndarray:
    """Returns the units of a layer's float weights (input 1) or bias (input 2), shaped to multiply them: powers of two,
    with which a product is exact."""
    weight, axis = constant(node.inputs[1]), output_axis(node)
    if weight is None:  # in INT8, or computed
        dequantize = node.inputs[1].producer() if node.inputs[1] is not None else None
        scale = constant(dequantize.inputs[1]) if dequantize is not None and len(dequantize.inputs) > 1 else None
        units = np.ones(1) if scale is None else np.atleast_1d(scale)
    else:
        units = np.abs(weight).max(axis=tuple(each for each in range(weight.ndim) if each != axis)) / INT8_MAX
    units = np.maximum(units, SMALLEST_UNIT * (units.max() or 1.0))
    units = np.exp2(np.rint(np.log2(units))).astype(np.float32)
    if index == 1:
        return units.reshape([-1 if each == axis else 1 for each in range(array.ndim)])
    return units if array.shape[-1:] == units.shape else units.max(keepdims=True)


def is_supported(node: ir.Node) -> bool:
    """Returns True for an operator that can be trained through, with the usual attributes."""
    return node.op_type in (*OPERATORS, "QuantizeLinear", "DequantizeLinear")


def needed_nodes(model: ir.Model, outputs: Sequence[str]) -> list[ir.Node]:
    """Lists the nodes that the outputs depend on, in order."""
    names = set(outputs)
    needed = []
    for node in reversed(model.graph):
        if any(value.name in names for value in node.outputs):
            needed.append(node)
            names.update(value.name for value in node.inputs if value is not None and value.name)
    return needed[::-1]
