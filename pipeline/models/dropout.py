"""The random numbers of dropout and stochastic depth: a row for each sample, by its place in the whole batch.

A batch may be gone through in parts, one after another or in processes side by side. Each part then draws the numbers
of the whole batch, from the seed of the step, and takes its own rows: a sample is dropped or kept whatever the split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

DROPPING = 2  # what the generator is for; see effedge.pipeline.training.data.batches

# (first sample, samples of the whole batch) of the part that the model sees; None for a batch that is whole.
_part: tuple[int, int] | None = None


@contextlib.contextmanager
def part_of_batch(seed: int, step: int, first: int, total: int) -> Iterator[None]:
    """Within the block the model sees the samples from `first` on of a batch of `total`, in step `step`."""
    global _part
    torch.manual_seed(int(np.random.SeedSequence([seed, DROPPING, step]).generate_state(1)[0]))
    _part = (first, total)
    try:
        yield
    finally:
        _part = None


def random_rows(samples: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform numbers in 0..1, [samples, *shape], for the samples that the model sees: the CPU's, on every device."""
    first, total = _part or (0, samples)
    return torch.rand(total, *shape)[first : first + samples].to(device, non_blocking=True)


def drop_out(x: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout (Srivastava et al. 2014) of features [N,C]: in training each is zero with probability `rate`."""
    if not training or rate == 0.0:
        return x
    keep = random_rows(*x.shape, device=x.device) >= rate
    return x * keep / (1.0 - rate)
