"""What a training starts from: a checkpoint of this model, of its backbone, or of a relative with the same shapes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from effedge.deploy.common.cli import UserError, choose
from effedge.pipeline.models.zoo import EFFICIENTDETS, MODELS, is_detector
from effedge.pipeline.weights.locate import locate_weights
from effedge.pipeline.weights.published import PUBLISHED
from effedge.pipeline.weights.save import load_matching


def initial_file(model: str, init: str, quiet: bool) -> Path | None:
    """The file of a path, of WEIGHTS of this model, of a detector's backbone where the detector has none (`imagenet`),
    or of MODEL:WEIGHTS (`lite0:imagenet`), downloaded if need be; None for `random`.

    Raises UserError as `effedge.pipeline.weights.locate.locate_weights`.
    """
    name, colon, weights = init.partition(":")
    if colon and not Path(init).is_file():
        return locate_weights(choose("model", name, MODELS), weights, quiet=quiet)
    if is_detector(model) and (model, init) not in PUBLISHED and (EFFICIENTDETS[model].backbone, init) in PUBLISHED:
        model = EFFICIENTDETS[model].backbone
    return locate_weights(model, init, quiet=quiet)


def initialize(model: nn.Module, name: str, init: str, quiet: bool) -> str:
    """Take over from `init` every tensor that fits by key and shape; returns a line that says how many those were.

    Raises UserError if none fits.
    """
    file = initial_file(name, init, quiet)
    if file is None:
        return "started from random weights"
    taken, total = load_matching(model, file), len(model.state_dict())
    if taken == 0:
        raise UserError(
            f"--init '{init}' has none of the {total} tensors of {name}: expected a checkpoint of {name}, of its "
            "backbone, or of a relative with the same shapes"
        )
    return f"started from {init}: {taken} of {total} tensors"
