"""Takes patches of a layer's input: its rows as a matrix product sees them, at some positions of the layer's output.

A convolution is a product of its weights [groups, channels out / groups, K] with patches [groups, K, positions], where
K is the input channels of the group times the kernel's area. A Gemm or MatMul is such a product with a kernel of
area 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from effedge.calibration.placement.layers import Layer, integer


def kernel_matrix(layer: Layer) -> np.ndarray:
    """Returns the float weights as [groups, out / groups, K]."""
    weight = layer.weight_array
    assert weight is not None
    if layer.node.op_type == "Conv":
        groups = integer(layer.node, "group", 1)
        return weight.reshape(groups, len(weight) // groups, -1)
    return (weight if layer.axis == 0 else weight.T)[None]


def from_matrix(layer: Layer, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inverts `kernel_matrix`, for weights of `shape`."""
    if layer.node.op_type == "Conv":
        return matrix.reshape(shape)
    return np.ascontiguousarray(matrix[0] if layer.axis == 0 else matrix[0].T)


class Patches:
    """Takes patches of a tensor at random positions.

    Args:
        most: positions to take of one tensor.

    >>> Patches(layer, most=512)(x, seed=3).shape  # doctest: +SKIP
    (groups, K, 512)
    """

    def __init__(self, layer: Layer, most: int) -> None:
        self.layer, self.most = layer, most
        node = layer.node
        if node.op_type == "Conv":
            weight = layer.weight_array
            assert weight is not None
            self.groups = integer(node, "group", 1)
            self.kernel = weight.shape[2:]
            dims = len(self.kernel)
            self.strides = node.attributes.get_ints("strides", [1] * dims)
            self.dilations = node.attributes.get_ints("dilations", [1] * dims)

    def __call__(self, x: np.ndarray, seed: int) -> np.ndarray:
        """Returns [groups, K, positions] of x: [N, C, *spatial] for a convolution, [*, K] for a product."""
        random = np.random.default_rng(seed)
        if self.layer.node.op_type != "Conv":
            rows = x.reshape(-1, x.shape[-1])
            return rows[_positions(random, len(rows), self.most)].T[None]
        batch, channels, *spatial = x.shape
        before, after = padding(self.layer.node, self.kernel, spatial)
        outputs = [
            (size + sum(pads) - (k - 1) * d - 1) // s + 1
            for size, *pads, k, d, s in zip(
                spatial, before, after, self.kernel, self.dilations, self.strides, strict=True
            )
        ]
        flat = _positions(random, batch * math.prod(outputs), self.most)
        sample, *at = np.unravel_index(flat, (batch, *outputs))
        taps = np.unravel_index(np.arange(math.prod(self.kernel)), self.kernel)
        # The place of each tap [taps, positions] within its channel, all images one after the other. The padding is not
        # made: a tap on it takes any place, and is set to 0.
        place, padded = sample[None].astype(np.intp), np.zeros((1, 1), bool)
        for position, stride, tap, dilation, pad, size in zip(
            at, self.strides, taps, self.dilations, before, spatial, strict=True
        ):
            index = position * stride + tap[:, None] * dilation - pad
            padded = padded | (index < 0) | (index >= size)
            place = place * size + index.clip(0, size - 1)
        patches = np.take(x.swapaxes(0, 1).reshape(channels, -1), place, axis=1)  # [C, taps, positions]
        if padded.any():
            patches[:, np.broadcast_to(padded, place.shape)] = 0
        return patches.reshape(self.groups, channels // self.groups * math.prod(self.kernel), len(flat))


def padding(conv: ir.Node, kernel: Sequence[int], spatial: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns a convolution's padding before and after each spatial dimension, of these sizes."""
    dims, automatic = len(kernel), conv.attributes.get_string("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        unpadded = [0] * 2 * dims
        pads = unpadded if automatic == "VALID" else list(conv.attributes.get_ints("pads", unpadded))
        return pads[:dims], pads[dims:]
    strides, dilations = (conv.attributes.get_ints(name, [1] * dims) for name in ("strides", "dilations"))
    before, after = [], []
    for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        small = total // 2
        before.append(small if automatic == "SAME_UPPER" else total - small)
        after.append(total - before[-1])
    return before, after


def _positions(random: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Returns `most` of `count` positions, in order; all where there are no more."""
    return np.arange(count) if count <= most else np.sort(random.choice(count, most, replace=False))
