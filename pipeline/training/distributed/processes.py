"""Joins the process group of a distributed training, on one machine or several.

    torchrun --nproc-per-node 8 -m effedge train ...

Every process holds a whole model and an equal share of every batch; DistributedDataParallel adds up their gradients (Li
et al. 2020), over NCCL between GPUs and over Gloo between CPUs. Only rank 0 prints and writes. Without torchrun there
is one process, rank 0 of world size 1.
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
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from effedge.deploy.common.cli import EXIT_USER_ERROR, UserError

# The other ranks wait while rank 0 draws data or downloads weights, longer than Gloo's and NCCL's default timeouts.
TIMEOUT = datetime.timedelta(hours=2)

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """A process's place in a training: its rank among `world_size` processes, and its device."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wraps `model` for the forward pass, so that its gradients are those of all processes together."""
        return DistributedDataParallel(model) if self.world_size > 1 else model

    def error(self, line: str) -> BaseException:
        """Makes the exception for an error that all processes meet: only rank 0 prints its line."""
        return UserError(line) if self.rank == 0 else SystemExit(EXIT_USER_ERROR)

    def total(self, values: list[float]) -> list[float]:
        """Sums each value over the processes."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def spread(
        self, model: Callable[[Iterable[Path]], Iterable[Result]]
    ) -> Callable[[Iterable[Path]], Iterator[Result]]:
        """Distributes the images of `model`, a function of image paths; every process gets the results of all."""

        def results(paths: Iterable[Path]) -> Iterator[Result]:
            paths = list(paths)
            own = list(model(paths[self.rank :: self.world_size]))
            by_rank: list[list[Result]] = [[] for _ in range(self.world_size)]
            dist.all_gather_object(by_rank, own)
            return (result for row in itertools.zip_longest(*by_rank) for result in row if result is not None)

        return results if self.world_size > 1 else lambda paths: iter(model(paths))

    @contextlib.contextmanager
    def rank_0_first(self) -> Iterator[None]:
        """Runs its block on rank 0 before the other ranks, which then use the files that rank 0 made."""
        if self.rank > 0:
            dist.barrier()
        yield
        if self.rank == 0 and self.world_size > 1:
            dist.barrier()


SINGLE_PROCESS = ProcessGroup(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def garbage_kept_from_forks() -> Iterator[None]:
    """Keeps worker processes that its block forks from collecting this process's garbage.

    A tensor of the GPU in the garbage would be freed by a process that may not touch the GPU, and CUDA ends that
    process.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def join_process_group(device: str | None = None) -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun started; without torchrun there is this one.

    Args:
        device: cpu or cuda; by default a GPU if there is one.

    Raises:
        UserError: there is no such device, or fewer GPUs than processes on this machine.
    """
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in
                                    (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
    chosen = choose_device(device, local_rank)
    if world_size == 1:
        yield ProcessGroup(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield ProcessGroup(rank, world_size, chosen)
    finally:
        dist.destroy_process_group()


def choose_device(device: str | None, local_rank: int) -> torch.device:
    """Chooses the device of process `local_rank` of this machine."""
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; leave it out to train on the CPU")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: expected at most {torch.cuda.device_count()} here"
        )
    return torch.device("cuda", local_rank)
