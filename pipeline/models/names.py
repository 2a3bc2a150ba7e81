"""Checks the names of models, reads those that other projects give them, and finds the models of equal tensors."""

from __future__ import annotations

import re
from pathlib import Path

from effedge.deploy.common.cli import UserError, choose
from effedge.pipeline.models.tables import (
    EFFICIENTDETS,
    EFFICIENTNETS,
    LISTED_EFFICIENTDETS,
    MODELS,
    NECKS,
    is_detector,
)

# Such as tf_efficientnet_b3_ns, efficientnet_b0.ra_in1k, tf_efficientnetv2_s_in21ft1k, efficientnet-b0.
ARCH_PATTERN = re.compile(
    r"(?:hf[-_]hub:)?(?:timm/)?(tf_)?efficient(net|det)(v2)?([-_])"
    r"(b\d|l2|d\dx?|lite\d|rw_[st]|d[st]|s|m|l|xl)a?"
    r"(?:_(?:a[ap]|ns|ra|in21k|in21ft1k))*(?:\..*)?"
)

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt", ".bin")


def check_model(word: str) -> str:
    """Returns `word` if it is the name of a model.

    Raises:
        UserError: an unknown name; says the name here of a model that timm or effdet call `word`, or whose own neck
            `word` has as a suffix, where a file goes, and otherwise the nearest name or neck.
    """
    if word in EFFICIENTNETS or word in EFFICIENTDETS:
        return word
    name = model_of_arch(word)
    for detector in LISTED_EFFICIENTDETS:
        if word.startswith(f"{detector}-"):
            neck = choose(f"neck of {detector}", word[len(detector) + 1 :], NECKS)
            name = with_neck(detector, neck)
    if name is not None:
        raise UserError(f"unknown model '{word}': it is called {name} here")
    if word.lower().endswith(".onnx"):
        raise UserError(
            f"'{word}' is a file, where the name of a model is expected: effedge engine takes an ONNX file as --onnx "
            f"{word} (make: ONNX={word})"
        )
    if word.lower().endswith(CHECKPOINT_SUFFIXES) or Path(word).is_file():
        raise UserError(
            f"'{word}' is a file, where the name of a model is expected: name the model of the checkpoint, such as d0, "
            f"and give the file as --weights {word} (make: WEIGHTS={word})"
        )
    return choose("model", word, MODELS)


def without_neck(name: str) -> str:
    """Returns the published model that a detector with another neck is made from; any other name as it is.

    >>> without_neck("det-lite0-bifpn-fast"), without_neck("d0")
    ('det-lite0', 'd0')
    """
    return name.removesuffix(f"-{EFFICIENTDETS[name].neck}") if is_detector(name) else name


def with_neck(name: str, neck: str) -> str:
    """Returns the name of a published detector with another neck.

    >>> with_neck("d0", "panet"), with_neck("d0", "bifpn-fast")
    ('d0-panet', 'd0')
    """
    return name if EFFICIENTDETS[name].neck == neck else f"{name}-{neck}"


def model_of_arch(arch: str) -> str | None:
    """Returns the name here of timm's, effdet's or lukemelas's name of a model; None for any other word.

    >>> [model_of_arch(arch) for arch in ("tf_efficientnet_b3_ns", "timm/efficientnet_b0.ra_in1k", "efficientnet-b0")]
    ['b3', 'efficientnet_b0', 'b0']
    >>> [model_of_arch(arch) for arch in ("tf_efficientdet_lite0", "efficientdet_d1", "efficientnet_es", "resnet50")]
    ['det-lite0', 'efficientdet_d1', None, None]
    >>> [model_of_arch(arch) for arch in ("tf_efficientnetv2_s.in21k", "tf_efficientnetv2_b0", "efficientnetv2_s")]
    ['v2-s', 'v2-b0', None]
    >>> [model_of_arch(arch) for arch in ("efficientnetv2_rw_s.ra2_in1k", "efficientdetv2_ds", "tf_efficientdetv2_s")]
    ['efficientnetv2_rw_s', 'efficientdetv2_ds', 'det-v2-s']
    """
    match = ARCH_PATTERN.fullmatch(arch)
    if match is None:
        return None
    tensorflow, task, second, dash, size = match.groups()
    if tensorflow or dash == "-":
        prefix = "det-" if task == "det" and (second or size.startswith("lite")) else ""
        name = f"{prefix}{'v2-' if second else ''}{size}"
    else:
        name = f"efficient{task}{second or ''}_{size}"
    return name if name in MODELS else None


def models_with_equal_tensors(name: str) -> list[str]:
    """Lists the other models whose tensors have the same names and shapes, biases in front of BatchNorm left aside.

    >>> models_with_equal_tensors("b0"), models_with_equal_tensors("d6"), models_with_equal_tensors("d5-panet")
    (['efficientnet_b0'], ['d7'], ['efficientdet_d5-panet'])
    >>> models_with_equal_tensors("d3")
    ['efficientdet_d3', 'd3-bifpn-softmax', 'efficientdet_d3-bifpn-softmax']
    """
    models = (*EFFICIENTNETS, *EFFICIENTDETS)
    return [other for other in models if other != name and _scaling(other) == _scaling(name)]


def _scaling(name: str) -> tuple[object, ...]:
    """Returns the fields of a model's rows that its tensors follow from."""
    if is_detector(name):
        row = EFFICIENTDETS[name]
        neck = NECKS[row.neck]
        sizes = (row.channels, row.layers, row.head_layers, row.levels, neck.paths, neck.fusion == "sum")
        return *sizes, *_scaling(row.backbone)
    trunk = EFFICIENTNETS[name]
    return trunk.width, trunk.depth, trunk.lite, trunk.stages
