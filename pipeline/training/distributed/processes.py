"""A training in several processes: `torchrun --nproc-per-node 8 -m effedge.pipeline.training.train ...`, on one machine or many.

Every process has the whole model and an equal share of each batch; DistributedDataParallel adds up their gradients (Li
et al. 2020), NCCL carrying them between GPUs and Gloo between CPUs. Rank 0 alone prints and writes. Without torchrun
there is one process, rank 0 of 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from effedge.deploy.common.cli import EXIT_USER_ERROR, UserError

# The others wait while rank 0 draws data or downloads weights, longer than Gloo's and NCCL's own patience.
PATIENCE = datetime.timedelta(hours=2)


@dataclasses.dataclass(frozen=True)
class Processes:
    rank: int
    count: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` as its forward pass is to be called, so that gradients are those of all processes together."""
        return DistributedDataParallel(model) if self.count > 1 else model

    def error(self, line: str) -> BaseException:
        """What to raise where all processes meet the same: rank 0 tells it."""
        return UserError(line) if self.rank == 0 else SystemExit(EXIT_USER_ERROR)

    def total(self, values: list[float]) -> list[float]:
        """Each value, summed over the processes."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def spread(self, model: Callable[[Iterable[Path]], Iterable[Any]]) -> Callable[[Iterable[Path]], Iterator[Any]]:
        """`model`, a function of pictures, with the pictures dealt out: every process gets the results of all."""

        def results(paths: Iterable[Path]) -> Iterator[Any]:
            paths = list(paths)
            own = list(model(paths[self.rank :: self.count]))
            every: list[Any] = [None] * self.count
            dist.all_gather_object(every, own)
            return (result for dealt in itertools.zip_longest(*every) for result in dealt if result is not None)

        return results if self.count > 1 else lambda paths: iter(model(paths))

    @contextlib.contextmanager
    def rank_0_first(self) -> Iterator[None]:
        """A block that rank 0 runs before the others, which then find what it made."""
        if self.rank > 0:
            dist.barrier()
        yield
        if self.rank == 0 and self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """A block in which worker processes are forked. They never collect this process's garbage: a tensor of the GPU in
    it would be freed by a process that may not touch the GPU, and CUDA ends that one."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """This process among those that torchrun started, or alone; `device` is cpu or cuda, a GPU if there is one.

    Raises UserError if there is no such device, or fewer GPUs than processes on this machine.
    """
    rank, count, local = (int(os.environ.get(name, default)) for name, default in
                          (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
    where = chosen_device(device, local)
    if count == 1:
        yield Processes(0, 1, where)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(rank, count, where)
    finally:
        dist.destroy_process_group()


def chosen_device(device: str | None, local: int) -> torch.device:
    """The device of process `local` of this machine."""
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; leave it out to train on the CPU")
    if local >= torch.cuda.device_count():
        raise UserError(
            f"process {local} of this machine has no GPU: expected at most {torch.cuda.device_count()} here"
        )
    return torch.device("cuda", local)


ALONE = Processes(0, 1, torch.device("cpu"))
