"""Reads what a trainer's file says of its model: architecture, input, normalization, anchors, class names.

The entries are those of timm's and effdet's trainers (`arch`, and `args` with the options), of effdet's configuration,
of Lightning's `hyper_parameters`, and of the Hugging Face hub's config.json. They are found by their names, however
deep they lie; of several the outermost counts. timm's configurations state some values twice, for training
(`input_size`, `crop_pct`) and beside it for evaluation (`test_input_size`, `test_crop_pct`), which an engine takes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CENTER_CROP, STRETCH
from effedge.pipeline.models.names import model_of_arch, models_with_equal_tensors, with_neck, without_neck
from effedge.pipeline.models.tables import EFFICIENTDETS, EFFICIENTNETS, NECKS, Size, is_detector
from effedge.pipeline.weights.anchor_spec import of_config
from effedge.pipeline.weights.published import Preprocessing

SIZE_NAMES = ("input_size", "img_size", "image_size")
INTERPOLATIONS = ("bilinear", "bicubic")
CROP_MODES = {"center": CENTER_CROP, "squash": STRETCH}  # of timm, which has "border" too
ADVPROP = ("_ap", ".ap_")
LABEL_OF_ID = re.compile(r"(?:^|\.)(?:label_names|labels)\.(\d{1,9})$")
DESCRIPTION = re.compile(r"(?:^|\.)label_descriptions\.(.+)$", re.DOTALL)
# Names of entries by which a file says how the network computes; `settings_of` has the values that a model stands for.
Settings = dict[str, tuple[object, ...]]


def entry(values: Mapping[str, object], *names: str) -> tuple[str, object] | None:
    """Returns (dotted path, value) of the outermost entry with one of the names, or None."""
    fitting = [path for path in values if path.rsplit(".", 1)[-1] in names and values[path] != ""]
    path = min(fitting, key=lambda each: (each.count("."), names.index(each.rsplit(".", 1)[-1])), default=None)
    return None if path is None else (path, values[path])


def evaluation_entries(values: Mapping[str, object], *names: str) -> list[tuple[str, object]]:
    """Returns (dotted path, value) of the outermost entry with one of the names, and in front of it that of the entry
    with `test_` before its name, which lies beside it; those that there are."""
    said = entry(values, *names)
    if said is None:
        only = entry(values, *(f"test_{name}" for name in names))
        return [only] if only is not None else []
    folder, dot, name = said[0].rpartition(".")
    path = f"{folder}{dot}test_{name}"
    return [(path, values[path]), said] if path in values else [said]


def architectures(values: Mapping[str, object], name: str) -> dict[str, str]:
    """Returns the texts that name a model of the same task as `name` does, by their dotted paths."""
    found = {}
    for path, value in values.items():
        model = model_of_arch(value) if isinstance(value, str) else None
        if model is not None and is_detector(model) == is_detector(name):
            found[path] = str(value)
    return found


def said_architecture(values: Mapping[str, object]) -> str:
    """Returns what the file calls its network, whatever that is; "" if it does not say."""
    said = entry(values, "arch", "architecture", "model_name", "model")
    return said[1] if said is not None and isinstance(said[1], str) else ""


def check_model_said(values: Mapping[str, object], name: str, file: Path) -> bool:
    """Checks that what the file says of its network is true of the model; returns True if it names the model.

    Raises:
        UserError: it names another model, or an entry stands for a network that computes something else.
    """
    named = architectures(values, name)
    own = without_neck(name) in map(model_of_arch, named.values())  # effdet has the neck as an option of its own
    if named and not own:
        path, arch = min(named.items(), key=lambda item: item[0].count("."))
        model = str(model_of_arch(arch))
        right = model if name == without_neck(name) else with_neck(model, EFFICIENTDETS[name].neck)
        raise UserError(
            f"checkpoint '{file}' says {path} '{arch}', which is {model} here, and MODEL is {name}: give MODEL={right}"
        )
    wrong = contradiction(values, name)
    if wrong is not None:
        path, expected = wrong
        others = [other for other in models_with_equal_tensors(name) if contradiction(values, other) is None]
        what_to_do = f"give MODEL={others[0]}" if others and not own else "no model here computes that"
        raise UserError(
            f"checkpoint '{file}' says {path} = {values[path]!r}, and {name} stands for {expected[0]!r}: {what_to_do}"
        )
    return own


def contradiction(values: Mapping[str, object], name: str) -> tuple[str, tuple[object, ...]] | None:
    """Returns (dotted path, values of the model) of the first entry that is not true of the model, or None."""
    for ending, expected in settings_of(name).items():
        for path, value in values.items():
            if f".{path}".endswith(f".{ending}") and not any(_equal(value, each) for each in expected):
                return path, expected
    return None


def settings_of(name: str) -> Settings:
    """Returns the entries that say how the network computes, each with the values that are true of the model."""
    if not is_detector(name):
        row = EFFICIENTNETS[name]
        padding = ("", None) if row.symmetric else ("same", "SAME")
        return {"bn_eps": (row.epsilon,), "pad_type": padding, "gp": ("avg", "fast"), "global_pool": ("avg", "fast")}
    detector = EFFICIENTDETS[name]
    lite = EFFICIENTNETS[detector.backbone].lite
    activations = ("relu6",) if lite else ("swish", "silu")
    return {
        "backbone_name": (detector.backbone,),
        "pad_type": ("", None) if detector.symmetric else ("same", "SAME"),
        "act_type": activations,
        "head_act_type": activations,
        "fpn_name": (NECKS[detector.neck].effdet,),
        "norm_kwargs.eps": (1e-3,),
        "downsample_type": ("bilinear",) if detector.bilinear else ("max",),
        "upsample_type": ("bilinear",) if detector.bilinear else ("nearest",),
        "separable_conv": (True,),
        "apply_resample_bn": (True,),
        "conv_bn_relu_pattern": (False,),
        "min_level": (3,),
        "max_level": (2 + detector.levels,),
    }


def said_size(values: Mapping[str, object]) -> Size | None:
    """Returns (height, width) of the input that the file says, for evaluation if it says that; None if none."""
    return next((size for _, value in evaluation_entries(values, *SIZE_NAMES) if (size := _size(value))), None)


def said_crop(values: Mapping[str, object]) -> float | None:
    """Returns the crop that the file says, for evaluation if it says that; None if none."""
    return next((crop for _, value in evaluation_entries(values, "crop_pct") if (crop := _crop(value))), None)


def evaluation_notes(values: Mapping[str, object]) -> list[str]:
    """Writes which values of a classifier's configuration are taken where it says others too, or an unknown one."""
    notes = []
    for names, read in ((SIZE_NAMES, _size), (("crop_pct",), _crop)):
        entries = [(path.rsplit(".", 1)[-1], read(value)) for path, value in evaluation_entries(values, *names)]
        if len(entries) == 2 and all(value for _, value in entries) and entries[0][1] != entries[1][1]:
            taken, other = (f"its {name} {value}" for name, value in entries)
            notes.append(f"{taken} is taken, not {other}")
    mode = entry(values, "crop_mode")
    if mode is not None and mode[1] not in list(CROP_MODES):
        known = " or ".join(CROP_MODES)
        notes.append(f"its {mode[0]} is {mode[1]!r}, which engines do not have: the model's own, {known}, is taken")
    return notes


def said_anchors(values: Mapping[str, object], name: str) -> np.ndarray | None:
    """Returns the shapes of the anchors that effdet's or zylo117's entries make, or None."""
    row = EFFICIENTDETS[name]
    scale, aspects, scales = (
        said[1] if (said := entry(values, *names)) is not None else None
        for names in (("anchor_scale",), ("aspect_ratios", "anchors_ratios"), ("num_scales", "anchors_scales"))
    )
    return of_config(scale, aspects, scales, row.anchor_scale, row.levels, row.aspects)


def said_preprocessing(values: Mapping[str, object], name: str, usual: Preprocessing) -> Preprocessing:
    """Returns `usual` with the mean, deviation, interpolation, crop, crop mode and fill that the file says."""
    look = usual
    if any(mark in arch for arch in architectures(values, name).values() for mark in ADVPROP):
        look = look._replace(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fill=(0, 0, 0))
    mean, std = (_three(entry(values, key)) for key in ("mean", "std"))
    if mean is not None and std is not None:
        if max(mean) > 1:  # in 0..255
            mean, std = ((red / 255, green / 255, blue / 255) for red, green, blue in (mean, std))
        look = look._replace(mean=mean, std=std)
        if is_detector(name):
            red, green, blue = (round(255 * value) for value in mean)
            look = look._replace(fill=(red, green, blue))
    interpolation, mode, fill = (entry(values, key) for key in ("interpolation", "crop_mode", "fill_color"))
    if interpolation is not None and isinstance(interpolation[1], str) and interpolation[1] in INTERPOLATIONS:
        look = look._replace(interpolation=str(interpolation[1]))
    if not is_detector(name) and (crop := said_crop(values)) is not None:
        look = look._replace(crop=crop)
    if not is_detector(name) and mode is not None and isinstance(mode[1], str) and mode[1] in CROP_MODES:
        look = look._replace(resize=CROP_MODES[mode[1]])
    if is_detector(name) and fill is not None and isinstance(fill[1], int) and 0 <= fill[1] <= 255:
        look = look._replace(fill=(fill[1],) * 3)
    return look


def said_labels(values: Mapping[str, object], classes: int, file: Path) -> list[str | None] | None:
    """Returns the class names by class id as timm's config.json has them, or None if it has none.

    `label_names` (in old files `labels`) is a list, or an object of class id to name where ids have gaps, which become
    None. `label_descriptions` has, by such a name, what people call the class; of several synonyms the first is taken
    unless another class has it too.

    Raises:
        UserError: another number of names, or of `num_classes`, than classes.
    """
    said = entry(values, "num_classes")
    if said is not None and isinstance(said[1], int) and said[1] != classes:
        raise UserError(
            f"checkpoint '{file}' has {classes} classes, and its configuration says {said[0]} {said[1]}: the two are "
            "not of one training; get both again"
        )
    listed = entry(values, "label_names", "labels")
    ids = {int(match[1]): str(values[path]) for path in values if (match := LABEL_OF_ID.search(path))}
    names = listed[1] if listed is not None and isinstance(listed[1], list) else None
    if names is None and not ids:
        return None
    count = max(classes, max(ids) + 1) if names is None else len(names)
    if count != classes:
        raise UserError(
            f"checkpoint '{file}' has {classes} classes, and its configuration names {count}: give LABELS (--labels), "
            "a text file with a class name a line"
        )
    labels = [ids.get(number) for number in range(classes)] if names is None else [str(name) for name in names]
    described = {match[1]: str(values[path]) for path in values if (match := DESCRIPTION.search(path))}
    texts = [described.get(label, label) if label is not None else None for label in labels]
    short = [text if text is None else text.split(",")[0].strip() for text in texts]
    used = Counter(short)
    return [brief if used[brief] == 1 else text for brief, text in zip(short, texts, strict=True)]


def _size(value: object) -> Size | None:
    """Returns the size that an entry says by a side, [h,w] or [c,h,w], or None."""
    sides = list(value)[-2:] if isinstance(value, Sequence) and not isinstance(value, str) else [value] * 2
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 16]
    return Size(*whole) if len(whole) == 2 else None


def _crop(value: object) -> float | None:
    """Returns the crop that an entry says, a number above 0 and up to 1, or None."""
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None


def _three(said: tuple[str, object] | None) -> tuple[float, float, float] | None:
    """Returns three numbers of an entry with three or with one, or None."""
    numbers = said[1] if said is not None else None
    if not isinstance(numbers, list) or not all(isinstance(each, int | float) and 0 <= each <= 255 for each in numbers):
        return None
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    return (float(numbers[0]), float(numbers[1]), float(numbers[2])) if len(numbers) == 3 else None


def _equal(value: object, expected: object) -> bool:
    """Compares an entry with a value: numbers to their last digits, names of models as `model_of_arch` reads them."""
    numbers = [each for each in (value, expected) if isinstance(each, int | float)]
    if len(numbers) == 2 and max(map(abs, numbers)) < 1e300:
        return math.isclose(*numbers, rel_tol=1e-6)
    return value == expected or (isinstance(value, str) and expected is not None and model_of_arch(value) == expected)
