"""Loads the engines that are served, names them, and describes them."""

from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import CLASS_OF_TASK
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.deploy.runtime.runner import Runner
from effedge.deploy.serving.models.array_model import ArrayModel
from effedge.deploy.serving.models.image_model import ImageModel

ServedModel = Union[ImageModel, ArrayModel]
ALLOWED = "-._"  # in a name, beside letters and digits: it is a part of a path


def load_models(
    folders: Sequence[str], batch_seconds: float, throughput: bool = False, images_only: bool = False
) -> Dict[str, ServedModel]:
    """Loads engine folders; returns the models by name, in order.

    Args:
        batch_seconds: the time in which a batch is filled, for engines of a batch above 1.
        throughput: run several batches at once, each slower than alone.
        images_only: raise UserError for an engine that takes arrays.

    Raises UserError for an engine that cannot run here.
    """
    models: Dict[str, ServedModel] = {}
    for folder, name in zip(folders, names_of(folders)):
        task = parse_manifest(folder)["spec"].get("task")
        if task not in CLASS_OF_TASK and not images_only:
            models[name] = ArrayModel(name, Runner(folder))
            continue
        model = Classifier(folder, throughput) if task == "classification" else Detector(folder, throughput=throughput)
        models[name] = ImageModel(name, model, batch_seconds)
    return models


def names_of(folders: Sequence[str]) -> List[str]:
    """Names engines: "d0-int8" by model and precision, or the folder's name; then the target tells them apart, and then
    a number."""
    manifests = [parse_manifest(folder) for folder in folders]
    names: List[str] = []
    for folder, manifest in zip(folders, manifests):
        precision = manifest.get("precision", {}).get("asked")
        model = manifest["spec"].get("model") or Path(folder).resolve().name
        parts = [str(model), *([precision] if precision else [])]
        name = as_name("-".join(parts))
        if name in names:
            name = as_name("-".join([*parts, str(manifest.get("target"))]))
        number = 2
        base = name
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def as_name(text: str) -> str:
    """Replaces what a name in a path may not have by "-"."""
    return "".join(letter if letter.isalnum() and letter.isascii() or letter in ALLOWED else "-" for letter in text)


def facts(folder: str, model: ServedModel) -> Dict[str, Any]:
    """Returns the facts of an engine that a person wants to see beside its results."""
    manifest = parse_manifest(folder)
    precision = manifest.get("precision", {})
    if not isinstance(model, ImageModel):
        raise UserError(f"'{folder}' takes arrays, expected an engine that takes images")
    engine = model.engine
    return {
        "name": model.name,
        "model": engine.model,
        "task": manifest["spec"]["task"],
        "precision": precision.get("asked"),
        "target": manifest.get("target"),
        "backend": manifest["backend"].get("name"),
        "size": [engine.width, engine.height],
        "labels": engine.all_labels(),
    }
