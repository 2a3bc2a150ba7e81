"""What a training starts from: a checkpoint of this model, of its backbone, or of a relative with the same shapes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from deploy.cli import UserError, choose
from pipeline.checkpoint import load_matching
from pipeline.locate import locate_weights
from pipeline.zoo import MODELS


def initial_file(model: str, init: str, quiet: bool) -> Path:
    """The file of a path, of WEIGHTS of this model, or of MODEL:WEIGHTS (`lite0:imagenet`), downloaded if need be.

    Raises UserError as `pipeline.locate.locate_weights`, or if the word is `random`.
    """
    name, colon, weights = init.partition(":")
    if colon and not Path(init).is_file():
        file = locate_weights(choose("model", name, MODELS), weights, quiet=quiet)
    else:
        file = locate_weights(model, init, quiet=quiet)
    if file is None:
        raise UserError(f"--init {init} is no checkpoint: leave --init out to start from random weights")
    return file


def initialize(model: nn.Module, name: str, init: str, quiet: bool) -> str:
    """Take over from `init` every tensor that fits by key and shape; returns a line that says how many those were.

    Raises UserError if none fits.
    """
    file = initial_file(name, init, quiet)
    taken, total = load_matching(model, file), len(model.state_dict())
    if taken == 0:
        raise UserError(
            f"--init '{init}' has none of the {total} tensors of {name}: expected a checkpoint of {name}, of its "
            "backbone, or of a relative with the same shapes"
        )
    return f"started from {init}: {taken} of {total} tensors"
