"""Runs a training's loop: steps, validations, the journal, and a resume file every minute.

A run that was interrupted or killed resumes from that file, and comes to the weights of a run that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.pipeline.training.data.batches import Batch, IndexedDataset, pass_errors_on, rank_share
from effedge.pipeline.training.data.sources import TrainingData
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS, ProcessGroup, garbage_kept_from_forks
from effedge.pipeline.training.initial_state import start_state
from effedge.pipeline.training.interrupts import Interrupts, leave_to_parent
from effedge.pipeline.training.log.outputs import Outputs
from effedge.pipeline.training.log.progress import TrainingProgress
from effedge.pipeline.training.log.state import resume_path, save_resume
from effedge.pipeline.training.options import Options
from effedge.pipeline.training.progressive.stages import describe_stage
from effedge.pipeline.training.step import make_normalize, train_step
from effedge.pipeline.training.validation import Validation

CHECKPOINT_SECONDS = 60.0


class Schedule(NamedTuple):
    """The validations of a training, and its early stop.

    validation: of the averaged weights; None for no validation.
    every: number of steps between validations; the weights at the end are validated in any case.
    patience: number of validations without gain that stops the training; None for no early stop.
    """

    validation: Validation | None = None
    every: int | None = None
    patience: int | None = None


def make_loader(options: Options, data: TrainingData, start: int, group: ProcessGroup, workers: int) -> DataLoader:
    """Loads this process's parts of the batches from step `start` on; a UserError takes the place of a failed part."""
    share = options.batch // group.world_size
    draw = rank_share(data.draw, options.batch, group.rank, group.world_size)
    return DataLoader(
        IndexedDataset(draw, start * share, options.steps * share),
        share // options.accumulate,
        collate_fn=pass_errors_on(data.collate),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=group.device.type == "cuda",  # else the copies to the GPU make the CPU wait
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # its own, so that a resumed run draws nothing from the model's generator
    )


class TrainingLoop:
    """A training with its state and its files."""

    def __init__(
        self,
        options: Options,
        data: TrainingData,
        out: Path,
        schedule: Schedule,
        metadata: Mapping[str, str],
        group: ProcessGroup,
    ):
        self.options, self.data, self.schedule, self.group = options, data, schedule, group
        self.title = f"{options.model}: {out.name}"
        self.resume, self.outputs = resume_path(out), Outputs(out, metadata)
        self.run_key: dict[str, object] = options.as_json() | {"annotations": data.digest}
        self.state = start_state(options, len(data.labels), self.resume, self.run_key, group)
        self.scores = self.state.scores
        self.forward, self.normalize = group.wrap(self.state.model), make_normalize(options.model, group.device)
        self.progress = TrainingProgress(self.state.step, options.steps, options.batch)
        # Only rank 0 writes files.
        self.journal = self.outputs.journal(self.state.step, self.scores.validated) if group.rank == 0 else None
        self.saved_at = time.monotonic()

    def run(self, workers: int) -> None:
        """Runs the remaining steps.

        Raises:
            UserError: as `train`.
        """
        options, state, group = self.options, self.state, self.group
        with Interrupts() as interrupts, contextlib.ExitStack() as deferred:
            try:
                with interrupts.deferred(), garbage_kept_from_forks():  # a worker, being a copy, stays deferred
                    batches = iter(make_loader(options, self.data, state.step, group, workers))
                if group.world_size > 1:  # then all processes leave after the same step
                    deferred.enter_context(interrupts.deferred())
                while True:
                    if self.is_validation_due():
                        self.validate()
                    patience = self.schedule.patience
                    if state.step == options.steps or (patience and self.scores.without_gain >= patience):
                        break
                    if group.world_size > 1 and group.total([float(interrupts.pending)]) != [0.0]:
                        raise KeyboardInterrupt
                    self.step(batches, interrupts)
            except KeyboardInterrupt:
                with interrupts.deferred():
                    self.save_state()
                raise group.error(
                    f"interrupted after step {state.step} of {options.steps}: the state is kept in '{self.resume}', "
                    "and the same command goes on from it"
                ) from None
            finally:
                self.progress.bar.close()
                if self.journal is not None:
                    self.journal.close()

    def step(self, batches: Iterator[Batch | UserError], interrupts: Interrupts) -> None:
        """Runs one step, and writes its journal entry and, if a minute has passed, the resume file."""
        parts: list[Batch] = []
        for _ in range(self.options.accumulate):
            part = next(batches)
            if isinstance(part, UserError):
                raise part
            parts.append(part)
        stage = describe_stage(self.options, self.state.step)
        if stage is not None:
            log.info(stage)
        with interrupts.deferred():
            losses = train_step(self.state, self.forward, parts, self.normalize, self.options, len(self.data.labels),
                                self.group)  # fmt: skip
        rate = losses.pop("rate")
        speed = self.progress.step(self.state.step, losses)
        if self.journal is not None:
            self.journal.step(self.state.step, {**losses, "loss": sum(losses.values())}, rate, speed)
        if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS or self.state.step == self.options.steps:
            self.save_state()

    def is_validation_due(self) -> bool:
        """Returns True if these weights are to be validated and are not yet."""
        validation, every, _ = self.schedule
        step = self.state.step
        scheduled = bool(every and step % every == 0) or step == self.options.steps
        return validation is not None and scheduled and 0 < step != self.scores.validated

    def validate(self) -> None:
        """Validates the averaged weights, and writes them if they are the best so far."""
        validation, state = self.schedule.validation, self.state
        assert validation is not None
        figures = validation(state.model, state.ema.state)
        best, figure = self.scores.add(state.step, figures, validation.figure), figures[validation.figure]
        if self.journal is not None:
            log.info(f"step {state.step}: validation {validation.figure} {'-' if figure is None else f'{figure:.4f}'}")
            self.journal.validation(state.step, figures)
            if best:
                self.outputs.save(state.ema.state, state.step, figures, best=True)
            self.outputs.draw(self.title)
        self.save_state()

    def save_state(self) -> None:
        """Writes the resume file."""
        if self.journal is not None:
            self.journal.flush()
            save_resume(self.resume, self.run_key, self.state)
        self.saved_at = time.monotonic()

    def write_last(self) -> None:
        """Writes the weights after the last step, unless they are the best ones, and the curves."""
        if self.group.rank > 0:
            return
        state, scores = self.state, self.scores
        if state.step < self.options.steps:
            patience = self.schedule.patience
            log.info(f"stopped after {patience} validations without gain: the best was step {scores.best_step}")
        figures = scores.last if scores.validated == state.step else {}
        has_best = scores.best is not None and self.outputs.out.exists()
        if not has_best or scores.best_step != state.step:
            self.outputs.save(state.ema.state, state.step, figures, best=not has_best)
        self.outputs.draw(self.title)


def train(
    options: Options,
    data: TrainingData,
    out: Path,
    schedule: Schedule | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    workers: int = 1,
) -> tuple[dict[str, Tensor], float | None]:
    """Trains a model, from its resume file beside `out` if there is one, and writes its weights.

    Args:
        schedule: by default without validation.
        metadata: is written with the weights.
        workers: number of processes that make batches.

    Returns:
        The averaged weights after the last step, and their validation figure.

    Raises:
        UserError: a loss that is not finite, a resume file that is damaged or of another run, an image that cannot be
            read, or Ctrl-C (once the state is saved).
    """
    schedule = schedule or Schedule()
    loop = TrainingLoop(options, data, out, schedule, metadata or {}, group)
    loop.run(workers)
    loop.write_last()
    validation = schedule.validation
    return dict(loop.state.ema.state), loop.scores.last.get(validation.figure) if validation is not None else None
