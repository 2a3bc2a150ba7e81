"""Saves and loads the state of a training, so that a resumed run comes to the weights of one that was never stopped.

One file beside the output holds everything that the next step depends on: the weights and BatchNorm statistics, their
moving average, the optimizer's moments, the step, and the validation scores so far. Images
(`effedge.pipeline.training.data.batches`), dropout and stochastic depth (`effedge.pipeline.models.dropout`) follow from
the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file
from effedge.pipeline.training.ema import Ema
from effedge.pipeline.training.options import Options

# A file that was saved before there was an option is of a run with the option's default.
DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(Options) if field.default is not dataclasses.MISSING
}


@dataclasses.dataclass
class ValidationScores:
    """The figures of a training's validations.

    last: all figures of the last validation.
    validated: the step of the last validation.
    best: the best value so far of the figure that is compared.
    best_step: the step of the best value.
    without_gain: number of validations since then.
    """

    last: dict[str, float | None] = dataclasses.field(default_factory=dict)
    validated: int = 0
    best: float | None = None
    best_step: int = 0
    without_gain: int = 0

    def add(self, step: int, figures: dict[str, float | None], figure: str) -> bool:
        """Adds the figures of a step; returns True if `figure` among them is the best so far."""
        self.last, self.validated = figures, step
        value = figures[figure]
        if value is not None and (self.best is None or value > self.best):
            self.best, self.best_step, self.without_gain = value, step, 0
            return True
        self.without_gain += 1
        return False


@dataclasses.dataclass
class TrainingState:
    """The state of a training after `step` steps."""

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    scores: ValidationScores = dataclasses.field(default_factory=ValidationScores)


def resume_path(out: Path) -> Path:
    return out.with_name(out.name + ".resume.pt")


def save_resume(path: Path, run: Mapping[str, object], state: TrainingState) -> None:
    """Writes the state of the run that is described by `run`, a dict of plain values."""
    content = {
        "run": dict(run),
        "step": state.step,
        "model": state.model.state_dict(),
        "ema": state.ema.state,
        "optimizer": state.optimizer.state_dict(),
        "scores": dataclasses.asdict(state.scores),
    }
    # Through Python's own file, so that a full disk raises OSError.
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_resume(path: Path, run: Mapping[str, object], state: TrainingState) -> None:
    """Loads the file into `state`.

    Raises UserError if the file is damaged or of another run.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved_run, step, scores = saved["run"], saved["step"], ValidationScores(**saved["scores"])
    except Exception as error:  # torch.load raises almost anything on a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{path}' is damaged ({reason:.80}): remove it to begin anew") from error
    saved_run = DEFAULTS | saved_run
    different = [f"{key} {saved_run.get(key)} instead of {run[key]}" for key in run if saved_run.get(key) != run[key]]
    if different:
        raise UserError(
            f"'{path}' is of a run with other options ({', '.join(different)}): repeat that run's command to go on "
            "with it, or remove the file to begin anew"
        )
    state.model.load_state_dict(saved["model"])
    state.ema.load(saved["ema"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.scores = step, scores
