"""The optimizer and its schedule: AdamW, linear warm-up and a cosine to zero (Tan, Pang and Le 2020, section 5.1).

The papers train with SGD or RMSProp on batches of 128 and more; AdamW learns from the small batches of one machine.
"""

from __future__ import annotations

import math

import torch
from torch import nn

BETAS = (0.9, 0.99)


def learning_rate(step: int, steps: int, highest: float, warmup: int) -> float:
    """The rate of step 0 to `steps` - 1: a line up to `highest` over `warmup` steps, then a cosine towards zero."""
    if step < warmup:
        return highest * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, decay: float) -> torch.optim.Optimizer:
    """AdamW with decay on kernels and matrices only, not on biases, BatchNorm or fusion weights."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS)
