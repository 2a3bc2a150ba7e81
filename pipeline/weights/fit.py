"""Fits a file's tensors to a model: finds them, reads classes and anchors from the heads, compares the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.anchors import ANCHORS_PER_CELL
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import is_detector
from effedge.pipeline.weights.key_dialects import BIAS_OF_NORM, fit_biases
from effedge.pipeline.weights.match_keys import COUNTER, Match, find_matches
from effedge.pipeline.weights.state_file import as_float32
from effedge.pipeline.weights.which_model import CLASS_HEAD, recognize

CLASSIFIER_KEY = "classifier.weight"
BOX_HEAD = "box_net.predict.conv_pw.weight"


class Fitted(NamedTuple):
    """The tensors of a file as a model's state dict.

    per_cell: anchors in a cell of a detector.
    match: the set of tensors that was taken.
    biased: the file has biases in front of BatchNorm, as TensorFlow's detectors do; False for a classifier.
    choice: a line on what was taken, where the file has several sets of tensors that fit; "" where it has one.
    """

    classes: int
    state: dict[str, Tensor]
    per_cell: int
    match: Match
    biased: bool
    choice: str


def fit(name: str, tensors: Mapping[str, Tensor], file: Path, classes: int | None, says: str = "") -> Fitted:
    """Fits a file's tensors, under any prefix and in any key dialect, to a model.

    `num_batches_tracked`, which old checkpoints lack, becomes 0; a bias in front of BatchNorm is moved if need be.
    Tensors that belong to no module of the model are left out.

    Args:
        says: what the file calls its network, for an error.

    Raises:
        UserError: another number of `classes`, a key of the model that is missing or has another shape, or tensors of
            the model's modules beyond its own.
    """
    matches = find_matches(tensors, meta_state(name, 1, ANCHORS_PER_CELL))
    if not matches:
        first = ", ".join(f"'{key}'" for key in list(tensors)[:2])
        raise UserError(
            f"checkpoint '{file}' does not fit {name}: none of its {len(tensors)} tensors has a name of {name}'s (the "
            f"first are {first}); {_advice(name, tensors, says)}"
        )
    best = matches[0]
    per_cell, head_classes = read_heads(name, best.state, file)
    if head_classes is not None and classes is not None and head_classes != classes:
        raise UserError(
            f"checkpoint '{file}' has {head_classes} classes, {classes} were asked for: leave CLASSES (--classes) out "
            f"to take its {head_classes}, or train its head anew for {classes}"
        )
    expected = meta_state(name, head_classes or classes or 1, per_cell)
    state = fit_biases(best.state, expected)
    for key, value in expected.items():
        if key.endswith(COUNTER):
            state.setdefault(key, torch.zeros((), dtype=value.dtype))
    problem = _incomplete(state, expected, best)
    if problem:
        raise UserError(f"checkpoint '{file}' does not fit {name}: {problem}; {_advice(name, tensors, says)}")
    assert head_classes is not None
    biased = any(BIAS_OF_NORM.fullmatch(key) for key in best.state)
    fitted = {key: as_float32(state[key]).to(value.dtype).contiguous() for key, value in expected.items()}
    return Fitted(head_classes, fitted, per_cell, best, biased, _choice(matches))


def meta_state(name: str, classes: int, anchors: int) -> dict[str, Tensor]:
    """Returns the model's keys, shapes and types, on the meta device, which takes no memory."""
    with torch.device("meta"):
        return create_model(name, classes, anchors=anchors).state_dict()


def read_heads(name: str, state: Mapping[str, Tensor], file: Path) -> tuple[int, int | None]:
    """Returns (anchors in a cell, classes) by the sizes of the heads; no classes if there is no such head.

    Raises UserError if the heads are not of one number of anchors.
    """
    if not is_detector(name):
        head = state.get(CLASSIFIER_KEY)
        return ANCHORS_PER_CELL, head.shape[0] if head is not None and head.ndim == 2 else None
    class_head, box_head = (state.get(key) for key in (CLASS_HEAD, BOX_HEAD))
    per_cell = box_head.shape[0] // 4 if box_head is not None and box_head.ndim == 4 else ANCHORS_PER_CELL
    if class_head is None or class_head.ndim != 4:
        return per_cell, None
    if per_cell < 1 or class_head.shape[0] % per_cell:
        raise UserError(
            f"checkpoint '{file}' has a class head of {class_head.shape[0]} channels and a box head of {4 * per_cell}: "
            f"expected classes x anchors and 4 x anchors; take both heads from one training"
        )
    return per_cell, class_head.shape[0] // per_cell


def _incomplete(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], match: Match) -> str:
    """Writes in what `state` is not the model's state dict; "" if it is."""
    missing = [key for key in expected if key not in state]
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    matched = f"{len(expected) - len(missing) - len(wrong)} of {len(expected)} tensors match"
    if missing:
        return f"{matched}, the first missing is '{missing[0]}'"
    if wrong:
        found, wanted = list(state[wrong[0]].shape), list(expected[wrong[0]].shape)
        return f"{matched}, '{wrong[0]}' is {found}, expected {wanted}"
    return f"{matched}, and there are {len(match.surplus)} more, such as '{match.surplus[0]}'" if match.surplus else ""


def _advice(name: str, tensors: Mapping[str, Tensor], says: str) -> str:
    """Writes what to do about tensors that do not fit: names the models that they are of, if they are of any."""
    models = [model for model in recognize(tensors) if model != name]
    if models:
        return f"its sizes are those of {' and '.join(models)}: give MODEL={models[0]}"
    called = f"the file calls its network '{says}'; " if says else ""
    return f"{called}check MODEL, and that the keys are timm's, effdet's, zylo117's or lukemelas's"


def _choice(matches: list[Match]) -> str:
    """Writes which set of tensors was taken, if there are several that fit and differ."""
    best, *others = matches
    complete = [other for other in others if other.matching == best.matching and not other.surplus]
    others = [other for other in complete if _differ(best, other)]
    if not others:
        return ""
    rest = ", ".join(f"'{other.prefix}'" for other in others)
    if best.averaged and not any(other.averaged for other in others):
        return f"took the averaged weights '{best.prefix}', not {rest}"
    return f"took '{best.prefix}', not {rest}, which fits too: save the one that is meant by itself to choose"


def _differ(left: Match, right: Match) -> bool:
    """Compares two sets of tensors."""
    return any(key in right.state and not torch.equal(value, right.state[key]) for key, value in left.state.items())
