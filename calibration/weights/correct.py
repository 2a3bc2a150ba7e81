"""Corrects the INT8 model's weights and biases, layer by layer, so that its layers compute what the float model's do.

Each layer has two inputs for the same sample: x in the float model, and x' in the INT8 model, whose layers before it
are corrected already. Its weights are refitted and rounded (rounding.py) so that W'x' comes near W x, and its bias
takes up the rest of the mean (Nagel et al. 2019, section 4.2, bias correction). Without the refit W' is W, rounded. The
refit is worth most for a classifier, and does a detector more harm than good, so post_training.py tries both where the
outputs are no detections.

A bias makes up for the mean over all positions, and most of a detector's are background; so post_training.py tries
without it too.

Rows are centred first, so that the mean is left to the bias, and large rows are weighed down: the few cells with a
hundred times the usual magnitude are objects, which are detected with any weights, or cells that nothing looks at, and
the fit would serve only them.

The layers are taken by levels, from the image to the outputs, as a layer must make up for the errors that the layers
before it make after their own correction. All models run once, from level to level (layered_run.py). The tensors
between two levels are held in memory; where they are large, at the image's end, few samples give enough positions of
them, and the other samples come in further on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.graph.session import call_side_by_side, side_by_side, tensor_bytes
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.layered_run import LayeredRun, layer_depths
from effedge.calibration.weights.patches import Patches, from_matrix, kernel_matrix
from effedge.calibration.weights.rounding import compensated, refit, regularized, search_scales
from effedge.deploy.common.messages import track

POSITIONS = (1024, 16384)  # of all samples together, at least and at most
POSITIONS_PER_INPUT = 6  # K, of a row of weights
SAMPLES = (16, 128)  # at least and at most
TOTAL_MACS = 2e10  # multiply-accumulates of the float model's runs: what lies around them takes far longer
HELD_BYTES = 3 << 27  # of all models between two levels
FEWEST_SAMPLES = 4
LARGEST_KERNEL = 8192  # rows of weights beyond it are left as they are: their H would take gigabytes
PORTION_BYTES = 1 << 24  # of patches that are multiplied at once


class Candidate(NamedTuple):
    """An INT8 model to correct, with its weights refitted or just rounded.

    model: made of the float model: the same nodes by name, with Q/DQ. It is changed in place.
    refitted: weights make up for the errors of earlier layers; False: they are the float weights, rounded by
        `compensated`.
    biased: biases make up for the mean error.
    """

    model: ir.Model
    refitted: bool = True
    biased: bool = True


class Portion(NamedTuple):
    """Samples that are there from a level on."""

    level: int
    samples: Samples


@dataclass
class Moments:
    """Weighted sums over patches x' [G, K, P] of the INT8 model and x [G, K, P] of the float model."""

    own: np.ndarray  # x' x'^T, [G, K, K]
    cross: np.ndarray | None  # x x'^T, where the weights are refitted
    mean: np.ndarray  # x', [G, K]
    float_mean: np.ndarray  # x
    weight: float = 0.0
    positions: int = 0
    offset: np.ndarray | None = None  # of x', [G, K, 1]: the sums are about it, as float32 does not centre afterwards
    float_offset: np.ndarray | None = None

    @classmethod
    def empty(cls, groups: int, size: int, cross: bool = True) -> Moments:
        square, line = (groups, size, size), (groups, size)
        return cls(np.zeros(square), np.zeros(square) if cross else None, np.zeros(line), np.zeros(line))

    def add(self, quantized: np.ndarray, float_: np.ndarray, weights: np.ndarray) -> None:
        """Adds the patches x' and x of some samples, and the weights [P] of their positions."""
        if self.offset is None or self.float_offset is None:
            self.offset, self.float_offset = (
                patches.mean(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
                for patches in (quantized, float_)
            )
        root = np.sqrt(weights, dtype=np.float64).astype(np.float32)
        own = quantized - self.offset
        own *= root
        self.own += own @ own.swapaxes(1, 2)
        self.mean += own @ root
        if self.cross is None:
            self.float_mean += float_ @ (root * root) - self.float_offset[..., 0] * (root @ root)
        else:
            float_ = float_ - self.float_offset
            float_ *= root
            self.cross += float_ @ own.swapaxes(1, 2)
            self.float_mean += float_ @ root
        self.weight += float(weights.sum(dtype=np.float64))
        self.positions += len(weights)

    def centred(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
        """Returns (own, cross) about the means, and the means of x' and x."""
        mean, float_mean = self.mean / self.weight, self.float_mean / self.weight
        own = self.own / self.weight - mean[:, :, None] * mean[:, None, :]
        cross = None if self.cross is None else self.cross / self.weight - float_mean[:, :, None] * mean[:, None, :]
        assert self.offset is not None and self.float_offset is not None
        return own, cross, mean + self.offset[..., 0], float_mean + self.float_offset[..., 0]


def position_weights(patches: np.ndarray) -> np.ndarray:
    """Returns the weights of a sample's positions, [P]: half, where the patch [G, K, P] has the mean power."""
    power = np.einsum("gkp,gkp->p", patches, patches, dtype=np.float64)
    return power.mean() / (power + power.mean()) if power.any() else np.ones_like(power)


def sample_budget(macs: int) -> int:
    """Returns the number of samples to correct the layers with, for a model of so many multiply-accumulates."""
    return int(np.clip(TOTAL_MACS / max(1, macs), *SAMPLES))


def correct(reference: ir.Model, candidates: Sequence[Candidate], layers: Sequence[Layer], samples: Samples) -> None:
    """Corrects each candidate in place.

    Args:
        reference: the float model that the candidates were made of.
        layers: of `reference`, those that are INT8 in the candidates, in the graph's order.
    """
    layers = [layer for layer in layers if kernel_matrix(layer).shape[-1] <= LARGEST_KERNEL]
    names = [layer.name for layer in layers]
    layers_of_level = levels(reference.graph, layers)
    models = [reference, *(candidate.model for candidate in candidates)]
    nodes = [{node.name: node for node in candidate.model.graph} for candidate in candidates]
    first, *late = portions_of(reference.graph, layers_of_level, samples, len(models))
    feeds = [arrays for _, arrays in first.samples]
    runs = [LayeredRun(model, names, feeds) for model in models]
    for level, layers_there in track(layers_of_level.items(), desc="correction", unit="level"):
        joining = [arrays for portion in late if portion.level == level for _, arrays in portion.samples]
        for run in runs:
            run.advance(level)
            if joining:
                run.join(joining)
        for layer in layers_there:
            counterparts = [by_name[layer.node.name] for by_name in nodes]
            moments = moments_of(layer, counterparts, candidates, runs)
            call_side_by_side(functools.partial(correct_layer, layer), candidates, counterparts, moments)


def portions_of(
    graph: ir.Graph, layers_of_level: Mapping[int, Sequence[Layer]], samples: Samples, models: int
) -> list[Portion]:
    """Divides the samples into those that run from the first level on, and those that join them later.

    From the level of each portion on, all the samples that are there fit into HELD_BYTES for all `models` (but for
    FEWEST_SAMPLES, which are there in any case).
    """
    depth = layer_depths(graph, [layer.name for portion in layers_of_level.values() for layer in portion])
    held = {level: models * bytes_between(depth, level) for level in layers_of_level}
    counts = {
        level: max(min(len(samples), FEWEST_SAMPLES), min(len(samples), HELD_BYTES // max(1, size)))
        for level, size in held.items()
    }
    first = min(counts.values(), default=0)
    late = next((level for level in counts if min(counts[other] for other in counts if other >= level) > first), None)
    if late is None:
        return [Portion(0, samples.spread(first))]
    both = samples.spread(min(counts[level] for level in counts if level >= late))
    return [Portion(0, both.spread(first)), Portion(late, both.without(first))]


def levels(graph: ir.Graph, layers: Sequence[Layer]) -> dict[int, list[Layer]]:
    """Returns the layers by the number of layers on the longest path to them; no layer follows another of its level."""
    depth = layer_depths(graph, [layer.name for layer in layers])
    result: dict[int, list[Layer]] = {}
    for layer in sorted(layers, key=lambda layer: depth[layer.node]):
        result.setdefault(depth[layer.node], []).append(layer)
    return result


def bytes_between(depth: Mapping[ir.Node, int], level: int) -> int:
    """Returns the bytes that one sample holds of tensors before a level, as far as shapes are known."""
    total = 0
    for node in depth:
        for value in node.outputs:
            if depth[node] < level and any(depth[reader] >= level for reader in value.consumers()):
                total += tensor_bytes(value)
    return total


def moments_of(
    layer: Layer, nodes: Sequence[ir.Node], candidates: Sequence[Candidate], runs: Sequence[LayeredRun]
) -> list[Moments]:
    """Computes the moments of a layer's input for each candidate.

    Args:
        nodes: the layer's counterpart in each candidate.
        runs: of the float model and of each candidate, at the layer's level.
    """
    groups, _, size = kernel_matrix(layer).shape
    moments = [Moments.empty(groups, size, candidate.refitted) for candidate in candidates]
    samples = list(zip(*(run.held for run in runs), strict=True))
    positions = np.clip(POSITIONS_PER_INPUT * size, *POSITIONS)
    patches = Patches(layer, math.ceil(positions / len(samples)))
    names = [layer.data.name or "", *(node.inputs[0].name or "" for node in nodes)]  # type: ignore[union-attr]
    waiting: list[list[np.ndarray]] = []  # of each sample: weights, x, and x' of each candidate

    def add() -> None:
        weights, float_, *quantized = (np.concatenate(arrays, axis=-1) for arrays in zip(*waiting, strict=True))
        call_side_by_side(lambda of_candidate, own: of_candidate.add(own, float_, weights), moments, quantized)
        waiting.clear()

    def of_sample(seed: int) -> list[np.ndarray]:
        tensors = [held[name] for name, held in zip(names, samples[seed], strict=True)]
        float_, *quantized = patches(tensors, seed)
        return [position_weights(float_), float_, *quantized]

    for arrays in side_by_side(of_sample, range(len(samples))):
        waiting.append(arrays)
        if arrays[1].nbytes * len(waiting) > PORTION_BYTES:
            add()
    if waiting:
        add()
    return moments


def correct_layer(layer: Layer, candidate: Candidate, node: ir.Node, moments: Moments) -> None:
    """Gives the candidate's node weights, scales and a bias by the moments of its inputs."""
    if moments.weight == 0:
        return
    own, cross, mean, float_mean = moments.centred()
    weights = kernel_matrix(layer).astype(np.float64)
    has_bias = can_add_to_bias(node)
    if not has_bias:  # no bias to take up the mean: the weights are fitted to the mean too
        own = own + mean[:, :, None] * mean[:, None, :]
        cross = None if cross is None else cross + float_mean[:, :, None] * mean[:, None, :]
    fitted = weights if cross is None else refit(weights, own, cross, moments.positions)
    invertible = regularized(own, moments.positions)
    scales = search_scales(fitted, np.einsum("gkk->gk", invertible)).astype(np.float32)
    rounded = compensated(fitted, scales.astype(np.float64), invertible)
    dequantize = node.inputs[1].producer()  # type: ignore[union-attr]
    assert dequantize is not None
    shape = constant(layer.weight).shape  # type: ignore[union-attr]
    name = f"{layer.name}.corrected"
    tape = Tape(candidate.model.graph)
    integers = from_matrix(layer, rounded, shape).astype(np.int8)
    dequantize.replace_input_with(0, tape.initializer(ir.tensor(integers, name=f"{name}_int8")))
    dequantize.replace_input_with(1, tape.initializer(ir.tensor(scales.reshape(-1), name=f"{name}_scale")))
    if has_bias and candidate.biased:
        alpha = node.attributes.get("alpha")
        factor = 1.0 if alpha is None or node.op_type != "Gemm" else alpha.as_float()
        dequantized = rounded * scales[..., None]
        wanted, reached = np.einsum("grk,gk->gr", weights, float_mean), np.einsum("grk,gk->gr", dequantized, mean)
        add_to_bias(candidate.model, node, name, factor * (wanted - reached).reshape(-1))


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
