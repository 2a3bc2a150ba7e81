"""Loads the weights of a model by the word WEIGHTS: digits, random, a kind of published weights, or a path.

Files of effedge carry metadata: `labels` (a JSON list), `size` and, for a classifier, `crop`. Keys and shapes are
compared with the model's, so that a wrong file is one clear line and never a half-initialized network. effedge's keys
are those of effdet and timm; zylo117's and lukemelas's are translated.
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
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import COCO_CLASSES, IMAGENET_CLASSES, is_detector
from effedge.pipeline.weights.class_names import coco_labels, imagenet_labels, numbered_labels, read_labels
from effedge.pipeline.weights.key_dialects import translate
from effedge.pipeline.weights.locate import locate_weights
from effedge.pipeline.weights.published import KINDS, Preprocessing, preprocessing
from effedge.pipeline.weights.state_file import read_state

CLASSIFIER_KEY = "classifier.weight"
DETECTOR_KEY = "class_net.predict.conv_pw.weight"

RANDOM_SEED = 0
# Enough pixels for the BatchNorm statistics of random weights, few enough for L2 in seconds. The coarsest level of a
# detector has one cell at 256, so there are several images.
RANDOM_SIZE, RANDOM_IMAGES = {True: 256, False: 128}, 4


class Weights(NamedTuple):
    """A state dict that fits the model, and what an engine's spec needs besides.

    labels: by class id; None for an id without a class (COCO's gaps).
    size: the side of the input that it was trained for, from the file's metadata; None stands for the model's own.
    file: that it was read from; None for random.
    """

    state: dict[str, Tensor]
    classes: int
    labels: list[str | None]
    preprocessing: Preprocessing
    size: int | None
    file: Path | None


def load_weights(name: str, weights: str, *, classes: int | None = None, labels: Path | None = None) -> Weights:
    """Loads the weights of a model.

    Args:
        name: a model of effedge.pipeline.models.tables.
        weights: `digits`, `random`, a published kind, or a path (`effedge.pipeline.weights.locate.locate_weights`).
        classes: the number that the checkpoint must have; None accepts any (random: COCO's 90 or ImageNet's 1000).
        labels: a file with a class name a line, in place of the names that come with the weights.

    Raises:
        UserError: no such weights or file, a damaged file, keys of another model, another number of classes, or a
            labels file with another number of lines.
    """
    file = locate_weights(name, weights)
    metadata: dict[str, str] = {}
    if file is None:
        published_classes = COCO_CLASSES if is_detector(name) else IMAGENET_CLASSES
        count = published_classes if classes is None else classes  # 0 is refused, not replaced
        state = random_state(name, count)
    else:
        raw, metadata = read_state(file)
        count, state = fit(name, raw, file, classes)
    image_preprocessing = preprocessing(name, weights if weights in KINDS else "")
    if "crop" in metadata:
        image_preprocessing = image_preprocessing._replace(crop=float(metadata["crop"]))
    size = int(metadata["size"]) if "size" in metadata else None
    return Weights(state, count, _labels(name, count, labels, metadata), image_preprocessing, size, file)


def fit(name: str, raw: Mapping[str, Tensor], file: Path, classes: int | None) -> tuple[int, dict[str, Tensor]]:
    """Fits a checkpoint's tensors, in any key dialect, to a model: (classes, state dict with exactly the model's keys).

    `num_batches_tracked`, which old checkpoints lack, becomes 0. Keys that the model does not have are dropped.

    Raises:
        UserError: another number of `classes`, or a key of the model that is missing or has another shape.
    """
    expected = _meta_state(name, classes or 1)
    state = translate(raw, expected)
    head_classes = _classes_of(name, state)
    if head_classes is not None and classes is not None and head_classes != classes:
        raise UserError(
            f"checkpoint '{file}' has {head_classes} classes, {classes} were asked for: leave CLASSES (--classes) out "
            f"to take its {head_classes}, or train its head anew for {classes}"
        )
    if head_classes is not None and classes is None:
        expected = _meta_state(name, head_classes)
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros((), dtype=value.dtype))
    missing = [key for key in expected if key not in state]
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if missing or wrong:
        matched = len(expected) - len(missing) - len(wrong)
        if missing:
            detail = f"the first missing is '{missing[0]}'"
        else:
            detail = f"'{wrong[0]}' is {list(state[wrong[0]].shape)}, expected {list(expected[wrong[0]].shape)}"
        raise UserError(
            f"checkpoint '{file}' does not fit {name}: {matched} of {len(expected)} tensors match, {detail}; check "
            "MODEL, and that the keys are timm's, effdet's, zylo117's or lukemelas's"
        )
    assert head_classes is not None
    return head_classes, {key: state[key].to(value.dtype).contiguous() for key, value in expected.items()}


def random_state(name: str, classes: int) -> dict[str, Tensor]:
    """Makes untrained weights, the same on every run: the model's initialization, BatchNorm statistics of photographs.

    With the statistics of an untrained BatchNorm (mean 0, variance 1) activations would vanish or explode over the
    hundreds of layers, and neither latency (denormal numbers) nor calibration would be like a real model's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = create_model(name, classes).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
                module.momentum = None  # plain averages: the statistics of the single batch
        with torch.inference_mode():
            model(_photographs(RANDOM_SIZE[is_detector(name)]))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The tiny deviation of a channel that hardly varies on these few images would blow others up.
                assert module.running_var is not None
                module.running_var.clamp_(min=module.running_var.mean().item())
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _photographs(size: int) -> Tensor:
    """Crops real photographs and roughly normalizes them, [RANDOM_IMAGES,3,size,size].

    Noise would not do: it has no large shapes, and the activations of a network that saw only noise explode on a
    photograph.
    """
    random = np.random.default_rng(RANDOM_SEED)
    crops = np.stack([background(random, "train", size, size) for _ in range(RANDOM_IMAGES)])
    return torch.from_numpy(crops).permute(0, 3, 1, 2) / 64.0 - 2.0


def _meta_state(name: str, classes: int) -> dict[str, Tensor]:
    """Returns the model's keys, shapes and types, on the meta device, which takes no memory."""
    with torch.device("meta"):
        return create_model(name, classes).state_dict()


def _classes_of(name: str, state: Mapping[str, Tensor]) -> int | None:
    """Returns the number of classes of a checkpoint's head, or None if it has no such head."""
    if is_detector(name):
        head = state.get(DETECTOR_KEY)
        return head.shape[0] // ANCHORS_PER_CELL if head is not None and head.ndim == 4 else None
    head = state.get(CLASSIFIER_KEY)
    return head.shape[0] if head is not None and head.ndim == 2 else None


def _labels(name: str, classes: int, file: Path | None, metadata: Mapping[str, str]) -> list[str | None]:
    """Returns the class names: of the user's `file`, or the checkpoint's, or the data set's with this many classes."""
    if file is not None:
        labels = read_labels(file)
        if len(labels) != classes:
            raise UserError(f"labels file '{file}' has {len(labels)} lines, expected one for each of {classes} classes")
        return labels
    if "labels" in metadata:
        return json.loads(metadata["labels"])
    if is_detector(name) and classes == COCO_CLASSES:
        return coco_labels()
    if not is_detector(name) and classes == IMAGENET_CLASSES:
        return imagenet_labels()
    return numbered_labels(classes)
