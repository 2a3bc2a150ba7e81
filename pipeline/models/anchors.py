"""Makes anchor boxes, and encodes boxes against them.

Sources: Lin et al. 2017, section 4 (anchors); Ren et al. 2015, section 3.1.2 (box code); effdet (order). Anchors are
centred on the cells of each level: three scales an octave times three aspect ratios, on a base of `anchor_scale`
strides. The order is level, row, column, scale, aspect: that of the heads' outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SCALES = 3
Aspects = tuple[tuple[float, float], ...]
ASPECTS: Aspects = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # (width, height) factors, about 1, 2 and 1/2
EXACT_ASPECTS: Aspects = ((1.0, 1.0), (2**0.5, 0.5**0.5), (0.5**0.5, 2**0.5))  # 1, 2 and 1/2
ANCHORS_PER_CELL = SCALES * len(ASPECTS)
FINEST_LEVEL = 3


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Returns (height, width) of P3 and coarser levels for an input of `size` = (height, width).

    Each level has half the size of the one before, rounded up.
    """
    height, width = size
    sizes = []
    for level in range(1, FINEST_LEVEL + levels):
        height, width = -(-height // 2), -(-width // 2)
        if level >= FINEST_LEVEL:
            sizes.append((height, width))
    return sizes


def make_anchors(
    size: tuple[int, int], levels: int, anchor_scale: float, aspects: Sequence[tuple[float, float]] = ASPECTS
) -> np.ndarray:
    """Makes all anchors of a published model: `place_anchors` of its three scales and three aspects."""
    return place_anchors(size, levels, anchor_shapes(anchor_scale, aspects))


def anchor_shapes(
    anchor_scale: float,
    aspects: Sequence[tuple[float, float]] = ASPECTS,
    scales: Sequence[float] | None = None,
) -> np.ndarray:
    """Computes the shapes of a cell's anchors, (width, height) in strides: float64 [A,2], scale by scale.

    Args:
        anchor_scale: the base size in strides.
        aspects: (width, height) factors.
        scales: factors of the base size; by default SCALES in an octave.
    """
    factors = 2.0 ** (np.arange(SCALES) / SCALES) if scales is None else np.asarray(scales, np.float64)
    return anchor_scale * (factors[:, None, None] * np.asarray(aspects, np.float64)).reshape(-1, 2)


def place_anchors(size: tuple[int, int], levels: int, shapes: np.ndarray) -> np.ndarray:
    """Places anchors on all cells of an input of `size` = (height, width): float32 [A,4], xyxy in input pixels.

    A stride is the input size over the level size: not an integer where the input does not divide by 2^level.

    Args:
        shapes: (width, height) in strides of a cell's anchors, [A,2] for all levels or [levels,A,2].
    """
    anchors = []
    for (rows, columns), level_shapes in zip(
        level_sizes(size, levels), np.broadcast_to(shapes, (levels, *shapes.shape[-2:])), strict=True
    ):
        stride_y, stride_x = size[0] / rows, size[1] / columns
        y = (np.arange(rows) + 0.5) * stride_y
        x = (np.arange(columns) + 0.5) * stride_x
        half_w, half_h = level_shapes[:, 0] * stride_x / 2, level_shapes[:, 1] * stride_y / 2
        cx, cy = np.meshgrid(x, y)
        cx, cy = cx[:, :, None], cy[:, :, None]
        cells = np.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], axis=-1)
        anchors.append(cells.reshape(-1, 4))
    return np.concatenate(anchors).astype(np.float32)


def encode(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Encodes `boxes` against `anchors`, both [n,4] xyxy in pixels, as regression targets (ty, tx, th, tw) [n,4]."""
    aw, ah = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    w = np.maximum(boxes[:, 2] - boxes[:, 0], 1e-3)
    h = np.maximum(boxes[:, 3] - boxes[:, 1], 1e-3)
    ty = (boxes[:, 1] + boxes[:, 3] - anchors[:, 1] - anchors[:, 3]) / 2 / ah
    tx = (boxes[:, 0] + boxes[:, 2] - anchors[:, 0] - anchors[:, 2]) / 2 / aw
    return np.stack([ty, tx, np.log(h / ah), np.log(w / aw)], axis=1).astype(np.float32)


def decode(code: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Decodes (ty, tx, th, tw) [n,4] to xyxy in pixels [n,4]: the inverse of `encode`.

    The tests hold the exported graph against it.
    """
    aw, ah = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    cy = code[:, 0] * ah + (anchors[:, 1] + anchors[:, 3]) / 2
    cx = code[:, 1] * aw + (anchors[:, 0] + anchors[:, 2]) / 2
    h, w = np.exp(code[:, 2]) * ah, np.exp(code[:, 3]) * aw
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
