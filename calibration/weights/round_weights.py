"""Rounds the weights of layers to INT8 by the error at each layer's output on calibration data.

A row w of weights that becomes q makes the error (w - q)' H (w - q) there, with H the mean of x x' over patches x of
the layer's input; rounding.py makes it small. H is that of the float model: what INT8 adds to a layer's input changes
it by next to nothing. So one pass takes H of all layers, and the weights are rounded before thresholds are searched.

H is not centred, and biases stay as they are, so that an error of the mean counts as any other. Bias correction (Nagel
et al. 2019, section 4.2) takes up the mean over all positions, and most of a detector's are background: the output
error of YOLOX-Nano on images that it had not seen then fell by a third or rose by a quarter, as it happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.session import Tensors, call_side_by_side, parts_that_fit, side_by_side
from effedge.calibration.placement.insert import RoundedWeight
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.patches import Patches, from_matrix, kernel_matrix
from effedge.calibration.weights.rounding import compensated, regularized, search_scales
from effedge.deploy.common.messages import track

POSITIONS = (1024, 16384)  # of all samples together, at least and at most
POSITIONS_PER_INPUT = 6  # K, of a row of weights
SAMPLES = (16, 128)  # at least and at most
TOTAL_MACS = 2e10  # multiply-accumulates of the runs
LARGEST_KERNEL = 8192  # rows of weights beyond it are rounded to the nearest: their H would take gigabytes
MOMENT_BYTES = 1 << 28  # of the H of the layers that one pass takes
PORTION_BYTES = 1 << 26  # of patches that are multiplied at once


def sample_budget(macs: int) -> int:
    """Returns the number of samples to round by, for a model of so many multiply-accumulates."""
    return int(np.clip(TOTAL_MACS / max(1, macs), *SAMPLES))


def round_weights(model: ir.Model, layers: Sequence[Layer], samples: Samples) -> dict[str, RoundedWeight]:
    """Rounds the weights of layers of a float model, which stays as it is.

    Returns:
        The weights by the layers' names, without those of kernels beyond LARGEST_KERNEL and of layers whose input is
        empty.
    """
    layers = [layer for layer in layers if kernel_matrix(layer).shape[-1] <= LARGEST_KERNEL]
    parts = parts_that_fit(layers, moment_bytes, MOMENT_BYTES)
    rounded: dict[str, RoundedWeight] = {}
    with track(total=len(samples) * len(parts), desc="rounding", unit="run") as bar:
        for part in parts:
            moments = moments_of(model, part, samples, bar.update)
            pairs = list(zip(part, moments, strict=True))
            weights = side_by_side(lambda pair: round_layer(*pair), pairs)
            rounded.update((layer.name, pair) for layer, pair in zip(part, weights, strict=True) if pair is not None)
    return rounded


def moment_bytes(layer: Layer) -> int:
    """Returns the bytes of a layer's H."""
    groups, _, size = kernel_matrix(layer).shape
    return groups * size * size * np.dtype(np.float32).itemsize


class Moments:
    """The sum of x x' over patches x of a layer's input.

    Attributes:
        sums: float32 [G, K, K].
        count: of patches.
    """

    def __init__(self, groups: int, size: int) -> None:
        self.sums = np.zeros((groups, size, size), np.float32)
        self.count = 0

    def add(self, patches: np.ndarray) -> None:
        """Adds patches [G, K, P]."""
        self.sums += patches @ patches.swapaxes(1, 2)
        self.count += patches.shape[2]


def moments_of(model: ir.Model, layers: Sequence[Layer], samples: Samples, done: Callable[[], object]) -> list[Moments]:
    """Computes the moments of each layer's input in the float model.

    Args:
        done: is called after each sample.
    """
    moments, takes = list[Moments](), list[Patches]()
    for layer in layers:
        groups, _, size = kernel_matrix(layer).shape
        moments.append(Moments(groups, size))
        takes.append(Patches(layer, math.ceil(np.clip(POSITIONS_PER_INPUT * size, *POSITIONS) / len(samples))))
    names = [layer.data.name or "" for layer in layers]
    tensors_of = Tensors(model, names)

    def patches_of(run: int) -> list[np.ndarray]:
        arrays = tensors_of(samples.load(run))
        return [take(arrays[name], run) for name, take in zip(names, takes, strict=True)]

    waiting: list[list[np.ndarray]] = []  # of each sample, the patches of each layer

    def add_waiting() -> None:
        joined = (np.concatenate(arrays, axis=-1) for arrays in zip(*waiting, strict=True))
        call_side_by_side(lambda of_layer, patches: of_layer.add(patches), moments, joined)
        waiting.clear()

    for arrays in side_by_side(patches_of, range(len(samples)), tensors_of.threads):
        waiting.append(arrays)
        done()
        if sum(array.nbytes for array in arrays) * len(waiting) > PORTION_BYTES:
            add_waiting()
    if waiting:
        add_waiting()
    return moments


def round_layer(layer: Layer, moments: Moments) -> RoundedWeight | None:
    """Rounds a layer's weights by the moments of its input; None if that was empty."""
    if moments.count == 0:
        return None
    weight = layer.weight_array
    assert weight is not None
    rows = kernel_matrix(layer).astype(np.float64)
    own = regularized(moments.sums.astype(np.float64) / moments.count, moments.count)
    scales = search_scales(rows, np.einsum("gkk->gk", own)).astype(np.float32)
    whole = compensated(rows, scales.astype(np.float64), own)
    return from_matrix(layer, whole, weight.shape).astype(np.int8), scales.reshape(-1)
