"""Makes a recipe's optimizer, and computes its learning rate by step."""

from __future__ import annotations

import math

import torch
from torch import nn

from effedge.pipeline.training.recipes import (
    ADAMW_BETAS,
    RMSPROP_DECAY,
    RMSPROP_EPSILON,
    RMSPROP_MOMENTUM,
    SGD_MOMENTUM,
)


def learning_rate(
    step: int, steps: int, highest: float, warmup: int, falling: tuple[float, float] | None = None
) -> float:
    """Computes the rate of step 0 to `steps` - 1: a line up to `highest` over `warmup` steps, then a cosine to zero.

    Args:
        falling: (factor, period): in place of the cosine, the rate is multiplied by `factor` every `period` steps.
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    if falling is not None:
        factor, period = falling
        return highest * factor ** math.floor(step / period)
    progress = (step - warmup) / max(1, steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, decay: float, name: str = "adamw") -> torch.optim.Optimizer:
    """Makes an optimizer that decays kernels and matrices only, not biases, BatchNorm or fusion weights."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=SGD_MOMENTUM)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=0.0, alpha=RMSPROP_DECAY, momentum=RMSPROP_MOMENTUM, eps=RMSPROP_EPSILON)
    return torch.optim.AdamW(groups, lr=0.0, betas=ADAMW_BETAS)
