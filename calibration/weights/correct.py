"""Correction: the INT8 model's weights and biases are fitted, layer by layer, to what the float model computes.

Each layer sees two inputs for the same sample: x in the float model and x' in the INT8 model, whose layers before it
are corrected already. Its weights are refitted and rounded (rounding.py) so that W'x' comes near W x, and its bias
takes up what is left of the mean (Nagel et al. 2019, section 4.2, bias correction). Without the refit W' is W, rounded:
the refit is worth most for a classifier, and may do a detector more harm than good, so study.py tries both.

Rows are centred first, so that the mean is the bias's business alone, and large ones are weighed down: the few cells
with a hundred times the usual magnitude are objects, found with any weights, or cells that nothing looks at, and would
be all that is fitted.

The layers are taken by levels, from the image to the outputs: what a layer makes good must be what those before it do
wrong after their own correction. Both models run once, in steps from level to level (steps.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape
from tqdm import tqdm

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.layered_run import Steps, depths
from effedge.calibration.weights.patches import Patches, from_matrix, kernel_matrix
from effedge.calibration.weights.rounding import compensated, refit, regularized, search_scales
from effedge.engines.stage import progress_disabled

POSITIONS = 512  # of one tensor and run
RUNS = (16, 128)  # samples, at least and at most
WORK = 1.6e11  # multiply-accumulates of the float model's runs: what lies around them takes far longer
BYTES = 3 << 29  # 1.5 GiB
FEWEST = 4
LARGEST_KERNEL = 8192  # rows of weights beyond it are left as they are: their H would take gigabytes


@dataclass
class Moments:
    """Weighted sums over rows: x' and x are [G, P, K]."""

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
        """(own, cross) about the means, and the means of x' and x."""
        mean, float_mean = self.mean / self.weight, self.float_mean / self.weight
        own = self.own / self.weight - mean[:, :, None] * mean[:, None, :]
        cross = self.cross / self.weight - float_mean[:, :, None] * mean[:, None, :]
        assert self.offset is not None and self.float_offset is not None
        return own, cross, mean + self.offset[:, 0], float_mean + self.float_offset[:, 0]


def affordable(macs: int) -> int:
    """Samples to correct the layers with, for a model of so many multiply-accumulates."""
    return int(np.clip(WORK / max(1, macs), *RUNS))


def correct(
    reference: ir.Model,
    quantized: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    *,
    refitted: bool = True,
    quiet: bool = False,
) -> None:
    """Correct `quantized` in place.

    Args:
        reference: the float model that it was made of: the same nodes by name, without Q/DQ.
        layers: of `reference`, those that are INT8 in `quantized`, in the graph's order.
        samples: what lies between two levels is held in memory for all of them, or for as many as BYTES take.
        refitted: weights make up for what earlier layers lost; False: they are the float ones, rounded with care.
    """
    layers = [layer for layer in layers if kernel_matrix(layer).shape[-1] <= LARGEST_KERNEL]
    names = [layer.name for layer in layers]
    portions = levels(reference.graph, layers)
    depth = depths(reference.graph, names)
    largest = max((bytes_between(depth, level) for level in portions), default=0)
    samples = samples.spread(max(FEWEST, min(len(samples), BYTES // max(1, 2 * largest))))
    nodes = {node.name: node for node in quantized.graph}
    expected, got = (Steps(model, names, samples) for model in (reference, quantized))
    for level, portion in tqdm(portions.items(), desc="correction", unit="level", disable=progress_disabled(quiet)):
        expected.advance(level)
        got.advance(level)
        for layer in portion:
            node = nodes[layer.node.name]
            correct_layer(quantized, node, layer, moments_of(layer, node, expected, got), refitted)


def levels(graph: ir.Graph, layers: Sequence[Layer]) -> dict[int, list[Layer]]:
    """The layers by how many lie on the longest way to them, so that none of a level is behind another of it."""
    depth = depths(graph, [layer.name for layer in layers])
    result: dict[int, list[Layer]] = {}
    for layer in sorted(layers, key=lambda layer: depth[layer.node]):
        result.setdefault(depth[layer.node], []).append(layer)
    return result


def bytes_between(depth: Mapping[ir.Node, int], level: int) -> int:
    """What one sample holds of float32 tensors in front of a level, as far as shapes are known."""
    total = 0
    for node in depth:
        for value in node.outputs:
            if depth[node] < level and any(depth[reader] >= level for reader in value.consumers()):
                shape = value.shape
                total += 4 * math.prod(d if isinstance(d, int) else 1 for d in shape) if shape is not None else 0
    return total


def moments_of(layer: Layer, node: ir.Node, expected: Steps, got: Steps) -> Moments:
    """The moments of a layer's input over all samples: of `layer` in the float model, of `node` in the INT8 model."""
    groups, _, size = kernel_matrix(layer).shape
    moments = Moments.empty(groups, size)
    take = Patches(layer, POSITIONS)
    name = node.inputs[0].name or ""  # type: ignore[union-attr]
    for seed, (float_held, held) in enumerate(zip(expected.held, got.held, strict=True)):
        moments.add(take(held[name], seed), take(float_held[layer.data.name or ""], seed))
    return moments


def correct_layer(model: ir.Model, node: ir.Node, layer: Layer, moments: Moments, refitted: bool = True) -> None:
    """Give the INT8 node weights, scales and a bias by the moments of its inputs; `refitted` as of `correct`."""
    if moments.weight == 0:
        return
    own, cross, mean, float_mean = moments.centred()
    weights = kernel_matrix(layer).astype(np.float64)
    has_bias = can_add_to_bias(node)
    if not has_bias:  # no bias to take up the mean: it is part of what the weights are fitted to
        own, cross = own + mean[:, :, None] * mean[:, None, :], cross + float_mean[:, :, None] * mean[:, None, :]
    fitted = refit(weights, own, cross, moments.rows) if refitted else weights
    certain = regularized(own, moments.rows)
    scales = search_scales(fitted, np.einsum("gkk->gk", certain)).astype(np.float32)
    rounded = compensated(fitted, scales.astype(np.float64), certain)
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
        now = rounded * scales[..., None]
        shift = factor * (np.einsum("grk,gk->gr", weights, float_mean) - np.einsum("grk,gk->gr", now, mean)).reshape(-1)
        add_to_bias(model, node, name, shift)


def can_add_to_bias(node: ir.Node) -> bool:
    """A constant bias, or room for one."""
    beta = node.attributes.get("beta")
    if node.op_type not in ("Conv", "Gemm") or (node.op_type == "Gemm" and beta is not None and beta.as_float() == 0):
        return False
    return len(node.inputs) < 3 or node.inputs[2] is None or constant(node.inputs[2]) is not None


def add_to_bias(model: ir.Model, node: ir.Node, name: str, shift: np.ndarray) -> None:
    """Add `shift` [channels out] to the bias of a node that `can_add_to_bias`; one without gets it."""
    old = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    beta = node.attributes.get("beta")
    shift = shift / (1.0 if beta is None or node.op_type != "Gemm" else beta.as_float())
    bias = (shift if old is None else old.astype(np.float64) + shift).astype(np.float32)
    value = Tape(model.graph).initializer(ir.tensor(bias, name=f"{name}_bias"))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)
