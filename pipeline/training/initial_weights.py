"""Loads the weights that a training starts from: of this model, its backbone, or a model with equal shapes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from effedge.deploy.common.cli import UserError, choose
from effedge.pipeline.models.tables import EFFICIENTDETS, MODELS, is_detector
from effedge.pipeline.weights.locate import locate_weights
from effedge.pipeline.weights.published import PUBLISHED
from effedge.pipeline.weights.save import load_matching


def initial_file(model: str, init: str) -> Path | None:
    """Locates the file that `init` names, and downloads it if need be.

    Args:
        init: a path, `random`, the weights of another model (`lite0:imagenet`), or published weights: of `model`, or
            of a detector's backbone where the detector has none of that name (`imagenet`).

    Returns:
        The file; None for `random`.

    Raises:
        UserError: as `effedge.pipeline.weights.locate.locate_weights`.
    """
    name, colon, weights = init.partition(":")
    if colon and not Path(init).is_file():
        return locate_weights(choose("model", name, MODELS), weights)
    if is_detector(model) and (model, init) not in PUBLISHED and (EFFICIENTDETS[model].backbone, init) in PUBLISHED:
        model = EFFICIENTDETS[model].backbone
    return locate_weights(model, init)


def initialize(model: nn.Module, name: str, init: str) -> str:
    """Copies every tensor of `init` that fits by key and shape; returns a line with their number.

    Raises UserError if no tensor fits.
    """
    file = initial_file(name, init)
    if file is None:
        return "started from random weights"
    taken, total = load_matching(model, file), len(model.state_dict())
    if taken == 0:
        raise UserError(
            f"--init '{init}' has none of the {total} tensors of {name}: expected a checkpoint of {name}, of its "
            "backbone, or of a relative with the same shapes"
        )
    return f"started from {init}: {taken} of {total} tensors"
