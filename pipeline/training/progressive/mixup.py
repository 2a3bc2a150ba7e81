"""Mixes the images of a batch in pairs, and their labels: mixup (Zhang et al. 2018, section 2).

A sample becomes w x + (1 - w) x', and its loss w L(y) + (1 - w) L(y'). w is drawn from Beta(alpha, alpha); if it is
below a half, 1 - w is taken, so that a sample remains mostly itself. The partner of sample i of n is sample n - 1 - i,
as in EfficientNetV2's code (google/automl, efficientnetv2, datasets.py). Where a batch is processed in parts, n counts
the samples of a part.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MIXING = 3  # the generator's purpose, beside those of effedge.pipeline.models.dropout


def draw_weights(alpha: float, seed: int, step: int, batch: int) -> Tensor:
    """Draws the weights of step `step`'s samples, float32 [batch], 0.5 to 1."""
    weights = np.random.default_rng([seed, MIXING, step]).beta(alpha, alpha, batch)
    return torch.from_numpy(np.maximum(weights, 1 - weights).astype(np.float32))


def mix_images(images: Tensor, weights: Tensor) -> Tensor:
    """Mixes normalized images [N,3,H,W] with those in reverse order, by weights [N]."""
    own = weights.to(images.dtype).view(-1, 1, 1, 1)
    return own * images + (1 - own) * images.flip(0)


def mix_losses(own: Tensor, partner: Tensor, weights: Tensor) -> Tensor:
    """Mixes the losses [N] of the samples' own labels with those of their partners' labels."""
    return weights * own + (1 - weights) * partner
