"""Going on after a kill, exactly: everything that the next step depends on, in one file beside the output.

That is the weights and BatchNorm statistics, their average, the optimizer's moments, the step, and the state of
PyTorch's generator (dropout, stochastic depth). Pictures follow from the step alone (`pipeline.samples`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy.cli import UserError
from deploy.files import whole_file
from pipeline.ema import Ema


@dataclasses.dataclass
class TrainingState:
    """A training after `step` steps."""

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0


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
        "generator": torch.get_rng_state(),
    }
    # Through Python's file, so that a full disk is an OSError.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_resume(path: Path, run: Mapping[str, Any], state: TrainingState) -> None:
    """Bring `state`, and PyTorch's generator, to where the file left off.

    Raises UserError if the file is damaged or of another run.
    """
    try:
        saved = torch.load(path, weights_only=True)
        theirs, step, generator = saved["run"], saved["step"], saved["generator"]
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
    state.ema.state = saved["ema"]
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step = step
    torch.set_rng_state(generator)
