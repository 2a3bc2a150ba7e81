"""Corrects the INT8 model's weights and biases, layer by layer, so that its layers compute what the float model's do.

Each layer has two inputs for the same sample: x in the float model, and x' in the INT8 model, whose layers before it
are corrected already. Its weights are refitted and rounded (rounding.py) so that W'x' comes near W x, and its bias
takes up the rest of the mean (Nagel et al. 2019, section 4.2, bias correction). Without the refit W' is W, rounded. The
refit is worth most for a classifier, and may do a detector more harm than good, so post_training.py tries both.

Rows are centred first, so that the mean is left to the bias, and large rows are weighed down: the few cells with a
hundred times the usual magnitude are objects, which are detected with any weights, or cells that nothing looks at, and
the fit would serve only them.

The layers are taken by levels, from the image to the outputs, as a layer must make up for the errors that the layers
before it make after their own correction. Both models run once, from level to level (layered_run.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.layered_run import LayeredRun, layer_depths
from effedge.calibration.weights.patches import Patches, from_matrix, kernel_matrix
from effedge.calibration.weights.rounding import compensated, refit, regularized, search_scales
from effedge.deploy.common.messages import track

POSITIONS = 512  # of one tensor and run
SAMPLES = (16, 128)  # at least and at most
TOTAL_MACS = 1.6e11  # multiply-accumulates of the float model's runs: what lies around them takes far longer
HELD_BYTES = 3 << 29  # 1.5 GiB
FEWEST_SAMPLES = 4
LARGEST_KERNEL = 8192  # rows of weights beyond it are left as they are: their H would take gigabytes


@dataclass
class Moments:
    """Weighted sums over rows x' [G, P, K] of the INT8 model and x [G, P, K] of the float model."""

    own: np.ndarray  # x' x'^T, [G, K, K]
    cross: np.ndarray  # x x'^T
    mean: np.ndarray  # x', [G, K]
    float_mean: np.ndarray  # x
    weight: float = 0.0
    rows: int = 0
    offset: np.ndarray | None = None  # of x', [G, 1, K]: the sums are about it, as float32 does not centre afterwards
    float_offset: np.ndarray | None = None

    @classmethod
    def empty(cls, groups: int, size: int) -> Moments:
        square, line = (groups, size, size), (groups, size)
        return cls(np.zeros(square), np.zeros(square), np.zeros(line), np.zeros(line))

    def add(self, quantized: np.ndarray, float_: np.ndarray) -> None:
        """Adds the rows x' and x of a sample."""
        power = np.square(float_, dtype=np.float64).mean(axis=(0, 2))
        weights = power.mean() / (power + power.mean()) if power.any() else np.ones_like(power)
        if self.offset is None or self.float_offset is None:
            self.offset, self.float_offset = (
                rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32) for rows in (quantized, float_)
            )
        quantized, float_ = quantized - self.offset, float_ - self.float_offset
        weighted = quantized * weights[:, None].astype(np.float32)
        self.own += weighted.transpose(0, 2, 1) @ quantized
        self.cross += float_.transpose(0, 2, 1) @ weighted
        self.mean += weighted.sum(axis=1)
        self.float_mean += (float_ * weights[:, None]).sum(axis=1)
        self.weight += float(weights.sum())
        self.rows += len(weights)

    def centred(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns (own, cross) about the means, and the means of x' and x."""
        mean, float_mean = self.mean / self.weight, self.float_mean / self.weight
        own = self.own / self.weight - mean[:, :, None] * mean[:, None, :]
        cross = self.cross / self.weight - float_mean[:, :, None] * mean[:, None, :]
        assert self.offset is not None and self.float_offset is not None
        return own, cross, mean + self.offset[:, 0], float_mean + self.float_offset[:, 0]


def sample_budget(macs: int) -> int:
    """Returns the number of samples to correct the layers with, for a model of so many multiply-accumulates."""
    return int(np.clip(TOTAL_MACS / max(1, macs), *SAMPLES))


def correct(
    reference: ir.Model,
    quantized: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    *,
    refitted: bool = True,
) -> None:
    """Corrects `quantized` in place.

    Args:
        reference: the float model that `quantized` was made of: the same nodes by name, without Q/DQ.
        layers: of `reference`, those that are INT8 in `quantized`, in the graph's order.
        samples: the tensors between two levels are held in memory for all samples, or for as many as HELD_BYTES take.
        refitted: weights make up for the errors of earlier layers; False: they are the float weights, rounded by
            `compensated`.
    """
    layers = [layer for layer in layers if kernel_matrix(layer).shape[-1] <= LARGEST_KERNEL]
    names = [layer.name for layer in layers]
    layers_of_level = levels(reference.graph, layers)
    depth = layer_depths(reference.graph, names)
    largest = max((bytes_between(depth, level) for level in layers_of_level), default=0)
    samples = samples.spread(max(FEWEST_SAMPLES, min(len(samples), HELD_BYTES // max(1, 2 * largest))))
    nodes = {node.name: node for node in quantized.graph}
    float_run, int8_run = (LayeredRun(model, names, samples) for model in (reference, quantized))
    for level, portion in track(layers_of_level.items(), desc="correction", unit="level"):
        float_run.advance(level)
        int8_run.advance(level)
        for layer in portion:
            node = nodes[layer.node.name]
            correct_layer(quantized, node, layer, moments_of(layer, node, float_run, int8_run), refitted)


def levels(graph: ir.Graph, layers: Sequence[Layer]) -> dict[int, list[Layer]]:
    """Returns the layers by the number of layers on the longest path to them; no layer follows another of its level."""
    depth = layer_depths(graph, [layer.name for layer in layers])
    result: dict[int, list[Layer]] = {}
    for layer in sorted(layers, key=lambda layer: depth[layer.node]):
        result.setdefault(depth[layer.node], []).append(layer)
    return result


def bytes_between(depth: Mapping[ir.Node, int], level: int) -> int:
    """Returns the bytes that one sample holds of float32 tensors before a level, as far as shapes are known."""
    total = 0
    for node in depth:
        for value in node.outputs:
            if depth[node] < level and any(depth[reader] >= level for reader in value.consumers()):
                shape = value.shape
                total += 4 * math.prod(d if isinstance(d, int) else 1 for d in shape) if shape is not None else 0
    return total


def moments_of(layer: Layer, node: ir.Node, float_run: LayeredRun, int8_run: LayeredRun) -> Moments:
    """Computes the moments of a layer's input over all samples: of `layer` in the float model and of `node`, its
    counterpart in the INT8 model."""
    groups, _, size = kernel_matrix(layer).shape
    moments = Moments.empty(groups, size)
    patches = Patches(layer, POSITIONS)
    name = node.inputs[0].name or ""  # type: ignore[union-attr]
    for seed, (float_held, held) in enumerate(zip(float_run.held, int8_run.held, strict=True)):
        moments.add(patches(held[name], seed), patches(float_held[layer.data.name or ""], seed))
    return moments


def correct_layer(model: ir.Model, node: ir.Node, layer: Layer, moments: Moments, refitted: bool = True) -> None:
    """Gives the INT8 node weights, scales and a bias by the moments of its inputs; `refitted` as of `correct`."""
    if moments.weight == 0:
        return
    own, cross, mean, float_mean = moments.centred()
    weights = kernel_matrix(layer).astype(np.float64)
    has_bias = can_add_to_bias(node)
    if not has_bias:  # no bias to take up the mean: the weights are fitted to the mean too
        own, cross = own + mean[:, :, None] * mean[:, None, :], cross + float_mean[:, :, None] * mean[:, None, :]
    fitted = refit(weights, own, cross, moments.rows) if refitted else weights
    invertible = regularized(own, moments.rows)
    scales = search_scales(fitted, np.einsum("gkk->gk", invertible)).astype(np.float32)
    rounded = compensated(fitted, scales.astype(np.float64), invertible)
    dequantize = node.inputs[1].producer()  # type: ignore[union-attr]
    assert dequantize is not None
    shape = constant(layer.weight).shape  # type: ignore[union-attr]
    name = f"{layer.name}.corrected"
    tape = Tape(model.graph)
    integers = from_matrix(layer, rounded, shape).astype(np.int8)
    dequantize.replace_input_with(0, tape.initializer(ir.tensor(integers, name=f"{name}_int8")))
    dequantize.replace_input_with(1, tape.initializer(ir.tensor(scales.reshape(-1), name=f"{name}_scale")))
    if has_bias:
        alpha = node.attributes.get("alpha")
        factor = 1.0 if alpha is None or node.op_type != "Gemm" else alpha.as_float()
        dequantized = rounded * scales[..., None]
        wanted, reached = np.einsum("grk,gk->gr", weights, float_mean), np.einsum("grk,gk->gr", dequantized, mean)
        add_to_bias(model, node, name, factor * (wanted - reached).reshape(-1))


def can_add_to_bias(node: ir.Node) -> bool:
    """Returns True if the node has a constant bias, or can get a bias."""
    beta = node.attributes.get("beta")
    if node.op_type not in ("Conv", "Gemm") or (node.op_type == "Gemm" and beta is not None and beta.as_float() == 0):
        return False
    return len(node.inputs) < 3 or node.inputs[2] is None or constant(node.inputs[2]) is not None


def add_to_bias(model: ir.Model, node: ir.Node, name: str, shift: np.ndarray) -> None:
    """Adds `shift` [channels out] to the bias of a node that `can_add_to_bias`; a node without a bias gets it."""
    old = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    beta = node.attributes.get("beta")
    shift = shift / (1.0 if beta is None or node.op_type != "Gemm" else beta.as_float())
    bias = (shift if old is None else old.astype(np.float64) + shift).astype(np.float32)
    value = Tape(model.graph).initializer(ir.tensor(bias, name=f"{name}_bias"))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)
