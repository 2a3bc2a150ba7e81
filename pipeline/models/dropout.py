"""Draws the random numbers of dropout and stochastic depth: a row for each sample, by its index in the batch.

A batch may be processed in parts, one after another or in several processes. Each part then draws the numbers of the
full batch, from the seed of the step, and takes its own rows, so a sample is dropped or kept however the batch is
split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

DROPPING = 2  # the generator's purpose, beside those of effedge.pipeline.training.data.batches

# (first sample, samples of the full batch) of the part that the model processes; None where that is the full batch.
_part: ContextVar[tuple[int, int] | None] = ContextVar("part", default=None)


@contextlib.contextmanager
def part_of_batch(seed: int, step: int, first: int, total: int) -> Iterator[None]:
    """Makes the model's input, within the block, the samples from `first` on of step `step`'s batch of `total`."""
    torch.manual_seed(int(np.random.SeedSequence([seed, DROPPING, step]).generate_state(1)[0]))
    before = _part.set((first, total))
    try:
        yield
    finally:
        _part.reset(before)


def random_rows(samples: int, *shape: int, device: torch.device) -> Tensor:
    """Draws uniform numbers in 0..1, [samples, *shape], for the model's samples: by the CPU, whatever the device."""
    first, total = _part.get() or (0, samples)
    return torch.rand(total, *shape)[first : first + samples].to(device, non_blocking=True)


def drop_out(x: Tensor, rate: float, training: bool) -> Tensor:
    """Sets features [N,C] to zero with probability `rate` in training: dropout (Srivastava et al. 2014)."""
    if not training or rate == 0.0:
        return x
    keep = random_rows(*x.shape, device=x.device) >= rate
    return x * keep / (1.0 - rate)
