"""Going on after a kill, exactly: everything that the next step depends on, in one file beside the output.

That is the weights and BatchNorm statistics, their average, the optimizer's moments, the step, and what validation has
found so far. Pictures (`effedge.pipeline.training.data.batches`), dropout and stochastic depth (`effedge.pipeline.models.dropout`) follow from the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import whole_file
from effedge.pipeline.training.ema import Ema


@dataclasses.dataclass
class Scores:
    """What validation has found.

    last: all figures of the last one, at step `validated`; best: the best figure so far, at step `best_step`.
    without_gain: how many validations there were since then.
    """

    last: dict[str, float | None] = dataclasses.field(default_factory=dict)
    validated: int = 0
    best: float | None = None
    best_step: int = 0
    without_gain: int = 0

    def take(self, step: int, figures: dict[str, float | None], figure: str) -> bool:
        """Take in the figures of a step; True if `figure` among them is the best so far."""
        self.last, self.validated = figures, step
        value = figures[figure]
        if value is not None and (self.best is None or value > self.best):
            self.best, self.best_step, self.without_gain = value, step, 0
            return True
        self.without_gain += 1
        return False


@dataclasses.dataclass
class TrainingState:
    """A training after `step` steps."""

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    scores: Scores = dataclasses.field(default_factory=Scores)


def resume_path(out: Path) -> Path:
    return out.with_name(out.name + ".resume.pt")


def save_resume(path: Path, run: Mapping[str, Any], state: TrainingState) -> None:
    """Write the state of the run that is described by `run`, a dict of plain values."""
    content = {
        "run": dict(run),
        "step": state.step,
        "model": state.model.state_dict(),
        "ema": state.ema.state,
        "optimizer": state.optimizer.state_dict(),
        "scores": dataclasses.asdict(state.scores),
    }
    # Through Python's file, so that a full disk is an OSError.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_resume(path: Path, run: Mapping[str, Any], state: TrainingState) -> None:
    """Bring `state` to where the file left off.

    Raises UserError if the file is damaged or of another run.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs, step, scores = saved["run"], saved["step"], Scores(**saved["scores"])
    except Exception as error:  # torch.load raises almost anything on a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{path}' is damaged ({reason:.80}): remove it to begin anew") from error
    different = [f"{key} {theirs.get(key)} instead of {run[key]}" for key in run if theirs.get(key) != run[key]]
    if different:
        raise UserError(
            f"'{path}' is of a run with other options ({', '.join(different)}): repeat that run's command to go on "
            "with it, or remove the file to begin anew"
        )
    state.model.load_state_dict(saved["model"])
    state.ema.load(saved["ema"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.scores = step, scores
