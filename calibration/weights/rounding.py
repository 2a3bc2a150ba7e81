"""Rounds weights to INT8 by the error at the layer's output, not by the error of the weights.

With the rows X of the layer's input, the error of a row w of weights is (w - q)' H (w - q), H = X'X. Two steps, both of
them linear algebra:

1. The scale of an output channel is searched: clipping its largest weights may cost less than a coarser step.
2. The weights are rounded one input at a time, and the weights that are not rounded yet make up for the error of each
   (Frantar et al. 2023, GPTQ; without the inverse of H: Chen et al. 2025, "GPTQ as Babai's nearest plane algorithm").
   The inputs that carry most come first.

All groups of a convolution are computed at once: weights [G, R, K], H [G, K, K].
"""

from __future__ import annotations

import numpy as np

from effedge.calibration.ranges.thresholds import INT8_MAX

DAMPING = 0.01  # of the mean of H's diagonal, so that it can be inverted
SHRINKS = np.linspace(0.6, 1.0, 21)  # of the largest weight
DEAD = 1e-12
BLOCK = 32


def search_scales(weights: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Returns the scale of each output channel with the least error, [G, R].

    Args:
        weights: [G, R, K].
        importance: [G, K], the mean square of each input (H's diagonal).
    """
    amax = np.abs(weights).max(axis=2)
    best = np.full(amax.shape, np.inf)
    scales = np.ones_like(amax)
    for shrink in SHRINKS[::-1]:
        scale = np.maximum(amax * shrink / INT8_MAX, np.finfo(np.float32).tiny)
        error = weights - nearest(weights, scale) * scale[..., None]
        loss = np.einsum("grk,gk->gr", error**2, importance)
        better = loss < best * (1 - 1e-6)
        best, scales = np.where(better, loss, best), np.where(better, scale, scales)
    return np.where(amax > np.finfo(np.float32).tiny * INT8_MAX, scales, 1.0)


def nearest(weights: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rounds to the nearest INT8: weights [G, R, K], scales [G, R] -> [G, R, K] whole numbers."""
    return np.clip(np.rint(weights / scales[..., None]), -INT8_MAX, INT8_MAX)


def regularized(own: np.ndarray, rows: int) -> np.ndarray:
    """Returns H with a ridge on its diagonal, so that it can be inverted and few rows count for little.

    Args:
        own: the mean of x x^T over rows, [G, K, K].
        rows: the number of rows.
    """
    size = own.shape[-1]
    diagonal = np.clip(np.einsum("gkk->gk", own), 0, None).mean(axis=1)
    ridge = np.maximum(diagonal * max(DAMPING, size / max(rows, 1)), diagonal.max() * 1e-6 + DEAD)
    return own + ridge[:, None, None] * np.eye(size)


def compensated(weights: np.ndarray, scales: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rounds with compensation: whole numbers [G, R, K] for weights [G, R, K], scales [G, R], a `regularized` H."""
    size = weights.shape[-1]
    order = np.argsort(np.einsum("gkk->gk", own), axis=1, kind="stable")  # from the last on, the largest first
    ordered = np.take_along_axis(np.take_along_axis(own, order[:, :, None], 1), order[:, None, :], 2)
    # H = L L'. The error of the row is that of L'(w - q), whose element i reads the weights from i on only. So the
    # weights are rounded from the last to the first, and i makes up for the errors behind it by L[k, i] / L[i, i] each.
    factor = np.linalg.cholesky(ordered)
    factor /= np.einsum("gkk->gk", factor)[:, None, :]
    exact = np.ascontiguousarray(np.take_along_axis(weights, order[:, None, :], 2).swapaxes(1, 2), np.float64)
    wanted, rounded, errors = exact.copy(), np.empty_like(exact), np.empty_like(exact)  # [G, K, R]
    for end in range(size, 0, -BLOCK):  # the weights before a block make up for its errors once, for the whole block
        start = max(0, end - BLOCK)
        for k in reversed(range(start, end)):
            rounded[:, k] = nearest(wanted[:, k, :, None], scales)[..., 0]
            errors[:, k] = exact[:, k] - rounded[:, k] * scales
            wanted[:, start:k] += factor[:, k, start:k, None] * errors[:, k, None]
        wanted[:, :start] += factor[:, start:end, :start].swapaxes(1, 2) @ errors[:, start:end]
    result = np.empty_like(weights, np.float64)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], result.shape), rounded.swapaxes(1, 2), 2)
    return result
