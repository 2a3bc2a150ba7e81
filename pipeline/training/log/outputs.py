"""Writes the files of a training: the weights OUT, and beside them the journal, its curves and the resume state.

mine.safetensors           the best weights by validation, the last ones without validation on the way
mine-last.safetensors      the last weights, where the best ones are others
mine.log.jsonl             the journal (`effedge.pipeline.training.log.journal`)
mine.tensorboard/          the same for TensorBoard
mine.png                   its curves (`effedge.pipeline.training.log.curves`), where matplotlib is installed
mine.safetensors.resume.pt the state to resume from (`effedge.pipeline.training.log.state`), removed at the end
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import explain_os_error
from effedge.pipeline.training.log.curves import draw_curves
from effedge.pipeline.training.log.journal import Journal
from effedge.pipeline.weights.save import save_weights


def check_out(out: Path) -> None:
    """Raises UserError if the weights could not be written to `out` in the end."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"--out '{out}': expected a file name that ends in .safetensors")
    with explain_os_error(out, any_number=True):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


class Outputs:
    """The files of a training; `metadata` is written with all weights."""

    def __init__(self, out: Path, metadata: Mapping[str, str]):
        self.out, self.metadata = out, metadata
        self.last = out.with_name(out.stem + "-last.safetensors")
        self.journal_path, self.curves = out.with_suffix(".log.jsonl"), out.with_suffix(".png")

    def journal(self, start: int, validated: int) -> Journal:
        return Journal(self.journal_path, self.out.with_suffix(".tensorboard"), start, validated)

    def save(self, weights: Mapping[str, Tensor], step: int, figures: Mapping[str, float | None], best: bool) -> None:
        """Writes the weights of a step with their validation figures, as the best or as the last weights."""
        measured = {
            "val_" + name.replace("-", "").lower(): f"{figure:.4f}"
            for name, figure in figures.items()
            if figure is not None
        }
        save_weights(weights, self.out if best else self.last, {**self.metadata, **measured, "step": str(step)})

    def draw(self, title: str) -> None:
        if find_spec("matplotlib") is not None:
            draw_curves(self.journal_path, self.curves, title)
