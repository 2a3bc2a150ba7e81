"""Turns an ONNX graph into a PyTorch module with trainable weights and biases; Q/DQ pairs become fake quantization.

INT8 weights are held in units of their scale: w = scale * round(v). Rounding passes the gradient straight through
(Bengio, Léonard and Courville 2013; Jacob et al. 2018, section 3); clipped values pass none. The scales of weights and
of activations stay as calibrated, so that the learnt weights fit the ONNX that they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.ranges.thresholds import INT8_MAX
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import LAYER_OPERATORS
from effedge.pipeline.training.finetune.operators import OPERATORS

LOWEST = -(INT8_MAX + 1)
WITHIN = 0.499  # of a step: rounding then gives the INT8 weight


class OnnxModule(nn.Module):
    """The part of a model that computes the tensors `outputs`, in float32 arithmetic.

    Attributes:
        scales: the scale of each INT8 weight by its initializer's name, shaped to multiply it.
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
            self._add_parameter(name, array)
        else:
            self.constants[name] = torch.from_numpy(array.copy())

    def _add_parameter(self, name: str, array: np.ndarray) -> None:
        self.keys[name] = name.replace(".", "|")
        self.values[self.keys[name]] = nn.Parameter(torch.from_numpy(array.copy()))

    @torch.no_grad()
    def start_at(self, model: ir.Model) -> None:
        """Moves each INT8 weight within its step to where the float `model`, with nodes of the same names, has it.

        Weights that all began in the middle of their steps would all leave them after the same number of optimizer's
        steps, and the loss would rise at once.
        """
        float_weights = {node.name: constant(node.inputs[1]) for node in model.graph if node.op_type in LAYER_OPERATORS}
        for node in self.nodes:
            exact = float_weights.get(node.name)
            dequantize = node.inputs[1].producer() if exact is not None and node.inputs[1] is not None else None
            name = dequantize.inputs[0].name if dequantize is not None and dequantize.inputs[0] is not None else None
            if exact is not None and name in self.scales:
                units = self.values[self.keys[name]]
                units += (torch.from_numpy(exact.copy()) / self.scales[name] - units).clamp(-WITHIN, WITHIN)

    def forward(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Computes the tensors `outputs` for inputs by name.

        The indices that a TopK finds may be among the inputs: then it takes the elements at these.
        """
        tensors: dict[str, Tensor] = {**self.constants, **feeds}
        for name, key in self.keys.items():
            tensors[name] = self.values[key]
        for node in self.nodes:
            computed = self._compute(node, tensors)
            outputs = (computed,) if isinstance(computed, Tensor) else computed
            tensors.update((value.name or "", tensor) for value, tensor in zip(node.outputs, outputs, strict=False))
        return [tensors[name] for name in self.outputs]

    def _compute(self, node: ir.Node, tensors: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Computes the first output of a node, or all of them, from the tensors by name."""
        inputs = [None if value is None else tensors[value.name or ""] for value in node.inputs]
        name = (node.inputs[0].name if node.inputs[0] is not None else "") or ""
        if node.op_type == "QuantizeLinear":  # includes the DequantizeLinear of the pair
            x, scale, zero_point = (tensors[value.name or ""] for value in node.inputs if value is not None)
            return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), LOWEST, INT8_MAX)
        if node.op_type == "TopK" and (chosen := tensors.get(node.outputs[1].name or "")) is not None:
            return inputs[0].gather(node.attributes.get_int("axis", -1), chosen), chosen  # type: ignore[union-attr]
        if node.op_type == "DequantizeLinear":
            return self.weight(name) if name in self.scales else inputs[0]  # type: ignore[return-value]
        attributes = {key: attribute.as_string() if attribute.type == ir.AttributeType.STRING else attribute.value
                      for key, attribute in node.attributes.items()}  # fmt: skip
        attributes.setdefault("num_outputs", len(node.outputs))  # a Split says it from opset 18 on
        try:
            return OPERATORS[node.op_type](inputs, attributes)
        except NotImplementedError as error:
            raise UserError(f"{node.op_type} '{node.name}' cannot be trained through: it has {error}") from error

    def weight(self, name: str) -> Tensor:
        """Computes the dequantized value of an INT8 weight."""
        units = self.values[self.keys[name]].clamp(-INT8_MAX, INT8_MAX)
        return (units + (units.round() - units).detach()) * self.scales[name]

    @torch.no_grad()
    def write(self, model: ir.Model) -> None:
        """Writes the learnt weights into the initializers of `model`, from which this was made, or of its clone."""
        for name, key in self.keys.items():
            value = model.graph.initializers[name]
            array = self.values[key].numpy()
            if name in self.scales:
                array = np.clip(np.rint(array), -INT8_MAX, INT8_MAX).astype(np.int8)
            value.const_value = ir.tensor(array, name=name)


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
