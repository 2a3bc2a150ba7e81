"""Loads the weights that a training starts from: of this model, its backbone, or a model with equal shapes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import EFFICIENTDETS, is_detector
from effedge.pipeline.training.fixres import load_trained
from effedge.pipeline.weights.hub.repository import is_repository, model_of_repository
from effedge.pipeline.weights.locate import locate_weights
from effedge.pipeline.weights.published import PUBLISHED
from effedge.pipeline.weights.save import load_matching


def initial_file(model: str, init: str) -> Path | None:
    """Locates the file that `init` names, and downloads it if need be.

    Args:
        init: a path, `random`, a repository of the Hugging Face hub, of whatever model, the weights of another model
            (`lite0:imagenet`), or published weights: of `model`, or of a detector's backbone where the detector has
            none of that name (`imagenet`).

    Returns:
        The file; None for `random`.

    Raises:
        UserError: as `effedge.pipeline.weights.locate.locate_weights`.
    """
    if is_repository(init):
        return locate_weights(model_of_repository(init), init)
    name, colon, weights = init.partition(":")
    if colon and not Path(init).is_file():
        return locate_weights(check_model(name), weights)
    if is_detector(model) and (model, init) not in PUBLISHED and (EFFICIENTDETS[model].backbone, init) in PUBLISHED:
        model = EFFICIENTDETS[model].backbone
    return locate_weights(model, init)


def initialize(model: nn.Module, name: str, init: str, whole: bool = False) -> str:
    """Copies every tensor of `init` that fits by key and shape; returns a line with their number.

    Args:
        whole: the file must have the whole classifier, with as many classes.

    Raises UserError if no tensor fits, or not all of the `whole`.
    """
    file = initial_file(name, init)
    if file is None:
        return "started from random weights"
    if whole:
        assert isinstance(model, EfficientNet)
        load_trained(model, name, init, file)
        return f"started from {init}"
    taken, total = load_matching(model, file), len(model.state_dict())
    if taken == 0:
        raise UserError(
            f"--init '{init}' has none of the {total} tensors of {name}: expected a checkpoint of {name}, of its "
            "backbone, or of a relative with the same shapes"
        )
    return f"started from {init}: {taken} of {total} tensors"
