"""Loads the weights of a model by the word WEIGHTS: digits, random, published weights, a hub's repository, or a path.

Files of effedge carry metadata: `labels` (a JSON list), `size` and, for a classifier, `crop`. Others may say their
architecture, input and anchors (`effedge.pipeline.weights.statements`), which are taken over or compared with the
model. Keys and shapes are compared with the model's, so that a wrong file is one clear line and never a
half-initialized network. What was chosen or found where the user might expect otherwise is a line of the log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import shown
from effedge.deploy.common.strict_json import parse_json
from effedge.pipeline.models.anchors import ANCHORS_PER_CELL, anchor_shapes
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.efficientdet import EfficientDet
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.tables import (
    COCO_CLASSES,
    EFFICIENTDETS,
    EFFICIENTNETS,
    IMAGENET_CLASSES,
    PYTORCH_EFFICIENTNETS,
    Size,
    input_size,
    is_detector,
    parse_size,
)
from effedge.pipeline.weights.anchor_spec import EXAMPLE, Grid, describe, equal_shapes, parse, recover
from effedge.pipeline.weights.class_names import (
    coco_labels,
    imagenet21k_labels,
    imagenet_labels,
    numbered_labels,
    read_labels,
)
from effedge.pipeline.weights.fit import Fitted, fit
from effedge.pipeline.weights.locate import config_file, locate_weights
from effedge.pipeline.weights.published import KINDS, Preprocessing, preprocessing
from effedge.pipeline.weights.random_weights import random_state
from effedge.pipeline.weights.state_file import StateFile, read_file
from effedge.pipeline.weights.statements import (
    check_model_said,
    entry,
    evaluation_notes,
    said_anchors,
    said_architecture,
    said_labels,
    said_preprocessing,
    said_size,
)
from effedge.pipeline.weights.which_model import check_trained, check_twins

ANCHOR_BOXES = "anchors.boxes"  # effdet's buffer
IMAGENET21K_CLASSES = 21843
LARGEST_SIZE = 1 << 14  # of an input, in pixels a side


class Weights(NamedTuple):
    """A state dict that fits the model, and what an engine's spec needs besides.

    labels: by class id; None for an id without a class (COCO's gaps).
    size: of the input that it is for, as far as the file says; None stands for the model's own.
    file: that it was read from; None for random.
    anchors: the shapes of a cell's anchors (`effedge.pipeline.models.anchors.place_anchors`); None: the model's own.
    """

    state: dict[str, Tensor]
    classes: int
    labels: list[str | None]
    preprocessing: Preprocessing
    size: Size | None
    file: Path | None
    anchors: np.ndarray | None = None


class Input(NamedTuple):
    """What a file says of its input.

    sides: (height, width), None if it does not say.
    usual, said: the preprocessing of the model, and that with what the file says.
    anchors, given: shapes by the file and by the user, None for none.
    """

    sides: tuple[int, int] | None
    usual: Preprocessing
    said: Preprocessing
    anchors: np.ndarray | None
    given: np.ndarray | None


def load_weights(
    name: str,
    weights: str,
    *,
    classes: int | None = None,
    labels: Path | None = None,
    anchors: str | None = None,
) -> Weights:
    """Loads the weights of a model.

    Args:
        name: a model of effedge.pipeline.models.tables.
        weights: `digits`, `random`, a published kind, a repository of the Hugging Face hub, or a path
            (`effedge.pipeline.weights.locate.locate_weights`).
        classes: the number that the checkpoint must have; None accepts any (random: COCO's 90 or ImageNet's 1000).
        labels: a file with a class name a line, in place of the names that come with the weights.
        anchors: of a detector, as `effedge.pipeline.weights.anchor_spec.parse` reads them, in place of the file's.

    Raises:
        UserError: no such weights or file, a damaged file, keys of another model, another number of classes or
            anchors, a file that says it is of another model, or a labels file with another number of lines.
    """
    if anchors is not None and not is_detector(name):
        raise UserError(f"anchors '{anchors}' (ANCHORS, --anchors) are of detectors, and {name} is none: leave it out")
    shapes = None
    if anchors is not None:
        shapes = parse(anchors, EFFICIENTDETS[name].anchor_scale, EFFICIENTDETS[name].aspects)
    file = locate_weights(name, weights)
    look = preprocessing(name, weights if weights in KINDS else "")
    if file is None:
        published_classes = COCO_CLASSES if is_detector(name) else IMAGENET_CLASSES
        count = published_classes if classes is None else classes  # 0 is refused, not replaced
        per_cell = ANCHORS_PER_CELL if shapes is None else shapes.shape[-2]
        state = random_state(name, count, per_cell)
        return Weights(state, count, _labels(name, count, labels, {}), look, None, None, shapes)
    content = read_file(file)
    check_trained(content.metadata, name, file)
    fitted = fit(name, content.tensors, file, classes, said_architecture(content.values))
    named = _labels(name, fitted.classes, labels, content.metadata)
    if weights in KINDS or "labels" in content.metadata:  # published, or effedge's own
        crop, size = _metadata_numbers(content)
        look = look if crop is None else look._replace(crop=crop)
        _check_count(name, fitted, shapes, file)
        return Weights(fitted.state, fitted.classes, named, look, size, file, shapes)
    if labels is None and config_file(file) is not None:
        named = said_labels(content.values, fitted.classes, file) or named
    is_named = check_model_said(content.values, name, file)
    said = said_preprocessing(content.values, name, look)
    sides, found = _read_anchors(name, content, fitted, shapes) if is_detector(name) else (None, None)
    sides = said_size(content.values) if sides is None else sides
    anchors_known = sides is not None and (found is not None or shapes is not None)
    doubts = [] if is_named else check_twins(name, fitted, file, anchors_known)
    lines = [fitted.choice] if fitted.choice else []
    lines += _lines(name, content, Input(sides, look, said, found, shapes))
    if lines:
        log.info(f"checkpoint '{file}': {'; '.join(lines)}")
    for doubt in doubts:
        log.warning(f"checkpoint '{file}': {doubt}")
    anchors_taken = found if shapes is None else shapes
    return Weights(fitted.state, fitted.classes, named, said, sides and Size(*sides), file, anchors_taken)


def module_of(name: str, loaded: Weights) -> EfficientNet | EfficientDet:
    """Creates the model's module with the weights, in training mode."""
    per_cell = ANCHORS_PER_CELL if loaded.anchors is None else loaded.anchors.shape[-2]
    module = create_model(name, loaded.classes, anchors=per_cell)
    module.load_state_dict(loaded.state)
    return module


def size_of_input(name: str, loaded: Weights, size: Size | None = None) -> Size:
    """Returns the size of the input: `size` if the user gave it, else the file's, else the model's own.

    A classifier's file may say any size: some published ones, as 300 or 475, are no multiples of 32.

    Raises:
        UserError: a size that does not suit the model; says where the size is from.
    """
    if size is None and loaded.size is not None and loaded.file is not None:
        try:
            return input_size(name, loaded.size, multiple=32 if is_detector(name) else 1)
        except UserError as error:
            smallest, made = (128, ", for which its anchors are made anew") if is_detector(name) else (32, "")
            suitable = Size(*(max(smallest, 32 * round(side / 32)) for side in loaded.size))
            raise UserError(
                f"checkpoint '{loaded.file}' says an input of {loaded.size}, and {error}: give SIZE={suitable} "
                f"(--size){made}"
            ) from error
    if size is not None and loaded.size not in (None, size):
        log.info(f"checkpoint '{loaded.file}': its input is {loaded.size}, built for {size}, as SIZE says")
    return input_size(name, size)


def _read_anchors(
    name: str, content: StateFile, fitted: Fitted, given: np.ndarray | None
) -> tuple[tuple[int, int] | None, np.ndarray | None]:
    """Reads (height, width) of a detector's input and its anchors from the file; None for what it does not say.

    Raises UserError if the heads have another number of anchors than these, or than those that the user has `given`.
    """
    row = EFFICIENTDETS[name]
    grid = _recovered(content, fitted, row.levels)
    found = said_anchors(content.values, name) if grid is None else grid.shapes
    _check_count(name, fitted, found if given is None else given, content.path)
    own = anchor_shapes(row.anchor_scale, row.aspects)
    if found is not None and equal_shapes(found, own):
        found = own  # exactly: float16 may have rounded them
    return None if grid is None else grid.size, found


def _recovered(content: StateFile, fitted: Fitted, levels: int) -> Grid | None:
    """Recovers the anchors from the file's anchor boxes, those of the tensors that were taken; None if it has none.

    Raises UserError if the boxes are no such anchors.
    """
    keys = [key for key in content.tensors if f".{key}".endswith(f".{ANCHOR_BOXES}")]
    if not keys:
        return None
    key = max(keys, key=lambda each: len(os.path.commonprefix([each, fitted.match.prefix])))
    boxes = content.tensors[key]
    grid = recover(boxes.double().numpy(), fitted.per_cell, levels)
    if grid is None:
        raise UserError(
            f"checkpoint '{content.path}': '{key}' {list(boxes.shape)} is no grid of {fitted.per_cell} anchors a cell "
            f"on {levels} levels from P3 on, which the model has: save the state dict without it, and give SIZE and "
            "ANCHORS"
        )
    return grid


def _check_count(name: str, fitted: Fitted, shapes: np.ndarray | None, file: Path) -> None:
    """Raises UserError unless the heads have as many anchors in a cell as there are shapes."""
    count = ANCHORS_PER_CELL if shapes is None else shapes.shape[-2]
    if count == fitted.per_cell:
        return
    of = f"{name}'s own are" if shapes is None else "its configuration or ANCHORS makes"
    raise UserError(
        f"checkpoint '{file}' has {fitted.per_cell} anchors in a cell, {of} {count}: give its anchors with ANCHORS "
        f"(--anchors), {EXAMPLE}"
    )


def _lines(name: str, content: StateFile, found: Input) -> list[str]:
    """Writes what the file says where it is not the model's own, and what is taken where it says nothing."""
    own = input_size(name)
    lines, unsaid = [], []
    if found.sides is None:
        unsaid.append(f"the size of its input ({own} unless SIZE says otherwise)")
    elif found.sides[0] != found.sides[1]:
        high, wide = found.sides
        lines.append(f"its input is {high} high and {wide} wide, {name}'s own {own}")
    elif found.sides != own:
        lines.append(f"its input is {found.sides[0]}, {name}'s own {own}")
    lines += [] if is_detector(name) else evaluation_notes(content.values)
    pairs = zip(Preprocessing._fields, found.said, found.usual, strict=True)
    lines += [f"its {field} is {said}, {name}'s own {usual}" for field, said, usual in pairs if said != usual]
    if name in PYTORCH_EFFICIENTNETS and EFFICIENTNETS[name].to_one and entry(content.values, "mean") is None:
        unsaid.append("the mean and deviation of its pixels (0.5 is taken, which timm has since 1.0.9)")
    if is_detector(name):
        shapes = anchor_shapes(EFFICIENTDETS[name].anchor_scale, EFFICIENTDETS[name].aspects)
        if found.given is not None and found.anchors is not None and not equal_shapes(found.given, found.anchors):
            lines.append(f"its anchors are {describe(found.anchors)}; those of ANCHORS take their place")
        elif found.given is None and found.anchors is None:
            unsaid.append(f"its anchors ({name}'s own unless ANCHORS says otherwise)")
        elif found.given is None and found.anchors is not None and not equal_shapes(found.anchors, shapes):
            lines.append(f"its anchors are {describe(found.anchors)}, {name}'s own {describe(shapes)}")
    return [*lines, *([f"it does not say {', '.join(unsaid)}"] if unsaid else [])]


def _labels(name: str, classes: int, file: Path | None, metadata: Mapping[str, str]) -> list[str | None]:
    """Returns the class names: of the user's `file`, or the checkpoint's, or the data set's with this many classes."""
    if file is not None:
        labels = read_labels(file)
        if len(labels) != classes:
            raise UserError(f"labels file '{file}' has {len(labels)} lines, expected one for each of {classes} classes")
        return labels
    if "labels" in metadata:
        return _metadata_labels(metadata["labels"], classes)
    if is_detector(name) and classes == COCO_CLASSES:
        return coco_labels()
    if not is_detector(name) and classes == IMAGENET_CLASSES:
        return imagenet_labels()
    if not is_detector(name) and classes == IMAGENET21K_CLASSES:
        return imagenet21k_labels()
    return numbered_labels(classes)


def _metadata_numbers(content: StateFile) -> tuple[float | None, Size | None]:
    """Reads the crop and the size in a file's metadata; None for what is not there. Raises UserError for no numbers."""
    metadata = content.metadata
    try:
        crop = float(metadata["crop"]) if "crop" in metadata else None
        size = parse_size(metadata["size"]) if "size" in metadata else None
    except (ValueError, UserError) as error:
        numbers = ", ".join(f"{key} {shown(metadata[key])}" for key in ("crop", "size") if key in metadata)
        raise UserError(f"checkpoint '{content.path}' is damaged ({numbers}): get it again") from error
    if not (crop is None or 0 < crop <= 1) or not (size is None or 0 < min(size) <= max(size) <= LARGEST_SIZE):
        raise UserError(f"checkpoint '{content.path}' is damaged (crop {crop}, size {size}): get it again")
    return crop, size


def _metadata_labels(text: str, classes: int) -> list[str | None]:
    """Reads the labels in a file's metadata. Raises UserError unless there is a name, or null, for each class."""
    try:
        labels = parse_json(text)
    except ValueError:
        labels = None
    is_list = isinstance(labels, list) and all(label is None or isinstance(label, str) for label in labels)
    if not is_list or len(labels) != classes:
        raise UserError(f"the checkpoint's labels are no list of {classes} names ({text:.40}): get it again")
    return labels
