"""The weights of a model by the word WEIGHTS: digits, random, a kind of published weights, or a path.

Our own files carry metadata: `labels` (a JSON list), `size` and, for a classifier, `crop`. What is loaded is held
against the model's own keys and shapes, so that a wrong file is one clear line and never a half-initialized network.
Keys of effdet and timm are ours; zylo117's and lukemelas's are translated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.digits import background
from effedge.pipeline.models.anchors import ANCHORS_PER_CELL
from effedge.pipeline.models.zoo import COCO_CLASSES, IMAGENET_CLASSES, create_model, is_detector
from effedge.pipeline.weights.class_names import coco_labels, imagenet_labels, numbered_labels, read_labels
from effedge.pipeline.weights.key_dialects import translate
from effedge.pipeline.weights.locate import locate_weights
from effedge.pipeline.weights.published import KINDS, Preprocessing, preprocessing
from effedge.pipeline.weights.state_file import read_state

CLASSIFIER_KEY = "classifier.weight"
DETECTOR_KEY = "class_net.predict.conv_pw.weight"

RANDOM_SEED = 0
# Enough pixels for the BatchNorm statistics of random weights, few enough for L2 in seconds. The coarsest level of a
# detector has one cell at 256, so there are several pictures.
RANDOM_SIZE, RANDOM_IMAGES = {True: 256, False: 128}, 4


class Weights(NamedTuple):
    """A state dict that fits the model, and what the engine must know of it.

    labels: by class id; None for an id without a class (COCO's gaps).
    size: the side of the input that it was trained for, where the file says so; else None: the model's usual.
    file: what it was read from; None for random.
    """

    state: dict[str, Tensor]
    classes: int
    labels: list[str | None]
    preprocessing: Preprocessing
    size: int | None
    file: Path | None


def load_weights(
    name: str, weights: str, *, classes: int | None = None, labels: Path | None = None, quiet: bool = False
) -> Weights:
    """Load the weights of a model.

    Args:
        name: a model of effedge.pipeline.models.zoo.
        weights: `digits`, `random`, a published kind, or a path (`effedge.pipeline.weights.locate.locate_weights`).
        classes: what the checkpoint must have; None takes what it has (random: COCO's 90 or ImageNet's 1000).
        labels: a file with a class name a line, over the names that the weights bring.

    Raises:
        UserError: no such weights or file, a damaged file, keys of another model, another number of classes, or a
            labels file with another number of lines.
    """
    file = locate_weights(name, weights, quiet=quiet)
    metadata: dict[str, str] = {}
    if file is None:
        usual_classes = COCO_CLASSES if is_detector(name) else IMAGENET_CLASSES
        count = usual_classes if classes is None else classes  # 0 is refused, not replaced
        state = random_state(name, count)
    else:
        raw, metadata = read_state(file)
        count, state = fit(name, raw, file, classes)
    usual = preprocessing(name, weights if weights in KINDS else "")
    if "crop" in metadata:
        usual = usual._replace(crop=float(metadata["crop"]))
    size = int(metadata["size"]) if "size" in metadata else None
    return Weights(state, count, _labels(name, count, labels, metadata), usual, size, file)


def fit(name: str, raw: Mapping[str, Tensor], file: Path, classes: int | None) -> tuple[int, dict[str, Tensor]]:
    """(classes, state dict with exactly the model's keys) from a checkpoint's tensors in any of the known dialects.

    `num_batches_tracked`, which old checkpoints lack, is counted as 0; keys that the model does not have are dropped
    only once all of its own are there.
    """
    expected = _meta_state(name, classes or 1)
    given = translate(raw, expected)
    found = _classes_of(name, given)
    if found is not None and classes is not None and found != classes:
        raise UserError(
            f"checkpoint '{file}' has {found} classes, {classes} were asked for: leave CLASSES (--classes) out to take "
            f"its {found}, or train its head anew for {classes}"
        )
    if found is not None and classes is None:
        expected = _meta_state(name, found)
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, torch.zeros((), dtype=value.dtype))
    missing = [key for key in expected if key not in given]
    wrong = [key for key in expected if key in given and given[key].shape != expected[key].shape]
    if missing or wrong:
        matched = len(expected) - len(missing) - len(wrong)
        if missing:
            detail = f"the first missing is '{missing[0]}'"
        else:
            detail = f"'{wrong[0]}' is {list(given[wrong[0]].shape)}, expected {list(expected[wrong[0]].shape)}"
        raise UserError(
            f"checkpoint '{file}' does not fit {name}: {matched} of {len(expected)} tensors match, {detail}; check "
            "MODEL, and that the keys are timm's, effdet's, zylo117's or lukemelas's"
        )
    assert found is not None
    return found, {key: given[key].to(value.dtype).contiguous() for key, value in expected.items()}


def random_state(name: str, classes: int) -> dict[str, Tensor]:
    """Untrained weights, the same on every run: the model's own initialization, BatchNorm statistics of photographs.

    With the statistics of an untrained BatchNorm (mean 0, variance 1) activations would die out or run away over the
    hundreds of layers, and neither latency (denormal numbers) nor calibration would be anything like a real model's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = create_model(name, classes).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
                module.momentum = None  # plain averages: the one batch's own statistics
        with torch.inference_mode():
            model(_photographs(RANDOM_SIZE[is_detector(name)]))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # A channel that hardly varied on these few pictures would blow others up by its tiny deviation.
                assert module.running_var is not None
                module.running_var.clamp_(min=module.running_var.mean().item())
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _photographs(size: int) -> Tensor:
    """Crops of real photographs, roughly normalized, [RANDOM_IMAGES,3,size,size]: noise has no large shapes, and a
    network that saw only noise answers a photograph with activations beyond all bounds."""
    random = np.random.default_rng(RANDOM_SEED)
    crops = np.stack([background(random, "train", size, size) for _ in range(RANDOM_IMAGES)])
    return torch.from_numpy(crops).permute(0, 3, 1, 2) / 64.0 - 2.0


def _meta_state(name: str, classes: int) -> dict[str, Tensor]:
    """The model's keys, shapes and types, without its memory."""
    with torch.device("meta"):
        return create_model(name, classes).state_dict()


def _classes_of(name: str, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes of a checkpoint's head, or None if it has no such head."""
    if is_detector(name):
        head = state.get(DETECTOR_KEY)
        return head.shape[0] // ANCHORS_PER_CELL if head is not None and head.ndim == 4 else None
    head = state.get(CLASSIFIER_KEY)
    return head.shape[0] if head is not None and head.ndim == 2 else None


def _labels(name: str, classes: int, file: Path | None, metadata: Mapping[str, str]) -> list[str | None]:
    """The class names: the user's, else those in the checkpoint, else the data set's that this many classes mean."""
    if file is not None:
        given = read_labels(file)
        if len(given) != classes:
            raise UserError(f"labels file '{file}' has {len(given)} lines, expected one for each of {classes} classes")
        return given
    if "labels" in metadata:
        return json.loads(metadata["labels"])
    if is_detector(name) and classes == COCO_CLASSES:
        return coco_labels()
    if not is_detector(name) and classes == IMAGENET_CLASSES:
        return imagenet_labels()
    return numbered_labels(classes)
