"""Tells which models a file's tensors are of, by their sizes, keys and biases, and where that leaves several, says so.

Several models have tensors of the same names and shapes: TensorFlow's models and those that timm and effdet trained in
PyTorch, which pad and normalize otherwise; and D6 and D7, whose inputs and anchors differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.bifpn import PATHS
from effedge.pipeline.models.efficientnet import scaled_stages, stem_channels
from effedge.pipeline.models.names import models_with_equal_tensors, without_neck
from effedge.pipeline.models.tables import (
    EFFICIENTDETS,
    EFFICIENTNETS,
    MODELS,
    NECKS,
    PYTORCH_EFFICIENTNETS,
    is_detector,
)

if TYPE_CHECKING:
    from effedge.pipeline.weights.fit import Fitted

STEM = "conv_stem.weight"
CLASS_HEAD = "class_net.predict.conv_pw.weight"


def recognize(tensors: Mapping[str, Tensor]) -> list[str]:
    """Lists the models whose sizes the tensors have, by timm's and effdet's keys; empty if they are of no model.

    Detectors with another neck than the published models are listed where no published model fits.

    Compared are the channels of stem and last stage, the layers of each stage, squeeze-and-excitation, and of a
    detector the neck's channels, layers and nodes, and whether it weighs their inputs.
    """
    stems = [key for key in tensors if key.endswith(STEM)]
    if not stems:
        return []
    trunk = stems[0].removesuffix(STEM)
    blocks = {match[0] for key in tensors if (match := re.match(rf"{re.escape(trunk)}blocks\.\d+\.\d+\.", key))}
    layers = Counter(int(block.split(".")[-3]) for block in blocks)
    lite = not any(".se." in key for key in tensors if key.startswith(trunk))
    last = tensors.get(f"{trunk}blocks.{max(layers, default=0)}.0.conv_pwl.weight")
    channels = (tensors[stems[0]].shape[0], None if last is None else last.shape[0])
    sizes: tuple[object, ...] = (channels, [layers[stage] for stage in sorted(layers)], lite)
    prefix = trunk.removesuffix("backbone.")
    head = tensors.get(prefix + CLASS_HEAD)
    if head is not None:
        node = re.compile(rf"{re.escape(prefix)}fpn\.cell\.(\d+)\.fnode\.(\d+)\.")
        nodes = {match.groups() for key in tensors if (match := node.match(key))}
        cells = {cell for cell, _ in nodes}
        summed = not any(key.endswith("edge_weights") for key in tensors)
        sizes = (*sizes, head.shape[1], len(cells), len(nodes), summed)
    models = EFFICIENTNETS if head is None else EFFICIENTDETS
    found = [name for name in models if sizes_of(name) == sizes and not fuses_by_softmax(name)]
    return [name for name in found if name in MODELS] or found


def fuses_by_softmax(name: str) -> bool:
    """Returns True for a detector that the tensors do not tell from the same with fast normalized fusion.

    Nobody published such weights, so that a file which does not say so is not suspected.
    """
    return is_detector(name) and NECKS[EFFICIENTDETS[name].neck].fusion == "softmax"


def sizes_of(name: str) -> tuple[object, ...]:
    """Returns the sizes of a model that `recognize` compares."""
    if is_detector(name):
        row = EFFICIENTDETS[name]
        neck = NECKS[row.neck]
        nodes = row.layers * len(PATHS[neck.paths](row.levels))
        return *sizes_of(row.backbone), row.channels, row.layers, nodes, neck.fusion == "sum"
    trunk = EFFICIENTNETS[name]
    stages = scaled_stages(trunk)
    return (stem_channels(trunk), stages[-1].channels), [stage.layers for stage in stages], trunk.lite


def check_trained(metadata: Mapping[str, str], name: str, file: Path) -> None:
    """Raises UserError if the metadata of effedge's own file names another model: its tensors may fit all the same.

    Those of d0 and d0-bifpn-softmax do, which compute otherwise.
    """
    trained = metadata.get("model", name)
    if trained != name and (trained in EFFICIENTNETS or trained in EFFICIENTDETS):
        raise UserError(f"checkpoint '{file}' is of {trained}, and MODEL is {name}: give MODEL={trained}")


def check_twins(name: str, fitted: Fitted, file: Path, anchors_known: bool) -> list[str]:
    """Compares a file that does not name its model with all models of its tensors; returns lines for the log.

    Args:
        anchors_known: the file or the user says what the input and the anchors are.

    Raises:
        UserError: the keys, or the biases in front of BatchNorm, are another model's.
    """
    twins = [twin for twin in models_with_equal_tensors(name) if fuses_by_softmax(twin) == fuses_by_softmax(name)]
    if fitted.match.dialect is not None:
        twins = [twin for twin in twins if not in_pytorch(twin)]
        if in_pytorch(name):
            raise UserError(
                f"checkpoint '{file}' has the keys of {fitted.match.dialect}'s project, whose models are TensorFlow's, "
                f"and {name} is timm's or effdet's own: give MODEL={twins[0]}"
            )
    elif is_detector(name):
        biased = [model for model in (name, *twins) if EFFICIENTDETS[model].redundant_bias == fitted.biased]
        if biased and name not in biased:
            has = "biases" if fitted.biased else "no biases"
            raise UserError(
                f"checkpoint '{file}' has {has} in front of BatchNorm, as {' and '.join(biased)}, unlike {name}: give "
                f"MODEL={biased[0]}; if it is {name} after all, save it with its name, as torch.save({{'arch': "
                f"'{arch_of(name)}', 'state_dict': state}}, file)"
            )
        twins = [twin for twin in twins if twin in biased]
    lines = []
    for twin in twins:
        difference = differences(twin, name, anchors_known)
        if difference:
            lines.append(f"it fits {name} and {twin}, and was taken as {name} by MODEL; {twin} has {difference}")
    return lines


def in_pytorch(name: str) -> bool:
    """Returns True for a model that timm or effdet trained in PyTorch."""
    return (EFFICIENTDETS[name].backbone if is_detector(name) else name) in PYTORCH_EFFICIENTNETS


def arch_of(name: str) -> str:
    """Returns timm's or effdet's name of a model; effdet has the neck in another entry, `fpn_name`.

    >>> arch_of("b0"), arch_of("v2-s"), arch_of("det-lite0"), arch_of("efficientdet_d0")
    ('tf_efficientnet_b0', 'tf_efficientnetv2_s', 'tf_efficientdet_lite0', 'efficientdet_d0')
    >>> arch_of("det-v2-s")  # which effdet has no configuration of; named as its efficientdetv2_ds is
    'tf_efficientdetv2_s'
    """
    name = without_neck(name)
    if in_pytorch(name):
        return name
    family = "det" if is_detector(name) else "net"
    stem = name.removeprefix("det-")
    return f"tf_efficient{family}{'v2' if stem.startswith('v2-') else ''}_{stem.removeprefix('v2-')}"


def differences(twin: str, name: str, anchors_known: bool) -> str:
    """Writes how `twin` computes otherwise than `name`; "" if it does not."""
    words = []
    trunks = [EFFICIENTNETS[EFFICIENTDETS[each].backbone if is_detector(each) else each] for each in (twin, name)]
    if trunks[0].symmetric != trunks[1].symmetric:
        padding = "symmetric padding" if trunks[0].symmetric else "TensorFlow's SAME padding"
        words.append(f"{padding} and BatchNorm epsilon {trunks[0].epsilon:g}")
    if is_detector(name) and not anchors_known:
        own, other = EFFICIENTDETS[name], EFFICIENTDETS[twin]
        words += [f"an input of {other.size}"] if own.size != other.size else []
        words += [f"anchor scale {other.anchor_scale:g}"] if own.anchor_scale != other.anchor_scale else []
    return ", ".join(words)
