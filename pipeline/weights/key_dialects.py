"""Translates the state-dict keys of other projects to effedge's, which are timm's and effdet's.

- lukemelas's efficientnet-pytorch (classifiers; the Lite0 package on PyPI follows it) counts blocks through the
  network, and begins every name with an underscore.
- zylo117's Yet-Another-EfficientDet-Pytorch has lukemelas's names under `backbone_net.model.`, with another `.conv`
  where the padding convolution is a module of its own. It names BiFPN nodes and their weights after levels, and
  BatchNorms of a head per level and then per layer (effdet: per layer and then per level).

Both were converted from the same TensorFlow models, and agree with effedge in padding, BatchNorm epsilon, the order of
anchors and of (ty, tx, th, tw), and the order of a node's inputs: only names differ. With one exception: zylo117's
max-pool counts the border as zeros, where TensorFlow and effedge leave it out, so the last row and column of P6 and P7
of a model that was trained with it differ a little. Its models that fuse by a plain sum (D6 and up) carry fusion
weights nevertheless, which nothing reads; they are dropped.

effdet itself has two orders of the heads' BatchNorms: by layer and then level, as here, or by level and then layer
(`head_bn_level_first`, which TorchScript needs). And a bias in front of a BatchNorm may be there or not
(`redundant_bias`): `fit_biases` makes either into the other without a change to what the network computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")

# Parts of a block: without expansion (the first stage, timm's DepthwiseSeparableConv) and with.
MBCONV1_PARTS = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
MBCONV6_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
TRUNK_PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}

ZYLO117_BACKBONE = "backbone_net.model."
HEADS = {"regressor": "box_net", "classifier": "class_net"}
SEPARABLE_PARTS = {"depthwise_conv.conv": "conv_dw", "pointwise_conv.conv": "conv_pw", "bn": "bn"}
FINEST_LEVEL = 3

# The bias of a convolution in front of BatchNorm: of a BiFPN node, of a projection, or of a head's layer.
BIAS_OF_NORM = re.compile(r"fpn\..*\.(?:conv_pw|conv\.conv)\.bias|(box_net|class_net)\.conv_rep\.(\d+)\.conv_pw\.bias")
LEVEL_FIRST = re.compile(r"(box_net|class_net)\.bn_rep\.(\d+)\.(\d+)\.(weight|bias|running_\w+|num_batches_tracked)")


def translate(state: Mapping[str, Value], model_keys: Iterable[str]) -> dict[str, Value]:
    """Renames the keys of a state dict of either project; returns any other state dict as it is.

    Args:
        state: the state dict to translate.
        model_keys: the keys of effedge's model, from which the blocks of a stage and the BiFPN's levels are counted.

    Returns:
        The same values under effedge's keys. A key that fits no rule keeps its name, for the loader to report.
    """
    model_keys = list(model_keys)
    dialect = dialect_of(state)
    if dialect == "zylo117":
        blocks, levels = block_places(model_keys, "backbone."), pyramid_levels(model_keys)
        renamed = {zylo117_key(key, blocks, levels): value for key, value in state.items()}
        fused = any(key.endswith(".edge_weights") for key in model_keys)
        return renamed if fused else {key: value for key, value in renamed.items() if not key.endswith("edge_weights")}
    if dialect == "lukemelas":
        blocks = block_places(model_keys, "")
        return {lukemelas_key(key, blocks): value for key, value in state.items()}
    return {LEVEL_FIRST.sub(r"\1.bn_rep.\3.\2.bn.\4", key): value for key, value in state.items()}


def dialect_of(keys: Iterable[str]) -> str | None:
    """Returns the project whose keys these are: zylo117, lukemelas, or None for timm's, effdet's and unknown ones."""
    keys = list(keys)
    if any(key.startswith(ZYLO117_BACKBONE) for key in keys):
        return "zylo117"
    return "lukemelas" if "_conv_stem.weight" in keys else None


def fit_biases(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Adds the biases in front of BatchNorm that the model has and `state` lacks, and takes away those it lacks.

    BatchNorm subtracts its running mean m, so a bias b in front of it can be moved there: (x + b) - m = x - (m - b).
    A bias that is missing is 0.
    """
    expected = set(expected)
    fitted = dict(state)
    for key in expected - fitted.keys():
        weight = fitted.get(key.removesuffix("bias") + "weight")
        if BIAS_OF_NORM.fullmatch(key) and weight is not None:
            fitted[key] = torch.zeros(weight.shape[0])
    for key in fitted.keys() - expected:
        match = BIAS_OF_NORM.fullmatch(key)
        if match is None:
            continue
        bias = fitted.pop(key)
        start = f"{match[1]}.bn_rep.{match[2]}." if match[1] else f"{norm_owner(key)}.bn."
        for mean in [name for name in fitted if name.startswith(start) and name.endswith(".running_mean")]:
            fitted[mean] = fitted[mean].float() - bias.float()
    return fitted


def norm_owner(key: str) -> str:
    """Returns the module that holds a convolution's BatchNorm, from the key of the convolution's bias.

    >>> norm_owner("fpn.resample.3.conv.conv.bias")
    'fpn.resample.3.conv'
    """
    return key.rsplit(".", 2)[0]


def lukemelas_key(key: str, blocks: list[tuple[int, int]], prefix: str = "") -> str:
    """Returns timm's key for a key of efficientnet-pytorch.

    Args:
        blocks: (stage, layer) of the network's blocks in order.
        prefix: of the network's keys in effedge's model.

    >>> lukemelas_key("_blocks.1._bn0.weight", [(0, 0), (1, 0)])
    'blocks.1.0.bn1.weight'
    """
    match = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(.+)", key)
    if match:
        index, part, leaf = int(match[1]), match[2], match[3]
        if index < len(blocks):
            stage, layer = blocks[index]
            parts = MBCONV1_PARTS if stage == 0 else MBCONV6_PARTS
            return f"{prefix}blocks.{stage}.{layer}.{parts.get(part, part)}.{leaf}"
    match = re.fullmatch(r"(_\w+)\.(.+)", key)
    if match and match[1] in TRUNK_PARTS:
        return f"{prefix}{TRUNK_PARTS[match[1]]}.{match[2]}"
    return key


def zylo117_key(key: str, blocks: list[tuple[int, int]], levels: int) -> str:
    """Returns effdet's key for a key of Yet-Another-EfficientDet-Pytorch.

    Args:
        blocks: (stage, layer) of the backbone's blocks in order.
        levels: of the BiFPN.

    >>> zylo117_key("regressor.bn_list.4.0.weight", [], 5)
    'box_net.bn_rep.0.4.bn.weight'
    """
    if key.startswith(ZYLO117_BACKBONE):
        # A convolution's own name ends in conv too, but after an underscore.
        inner = key[len(ZYLO117_BACKBONE) :].replace(".conv.", ".")
        return lukemelas_key(inner, blocks, prefix="backbone.")
    if match := re.fullmatch(r"(regressor|classifier)\.bn_list\.(\d+)\.(\d+)\.(\w+)", key):
        return f"{HEADS[match[1]]}.bn_rep.{match[3]}.{match[2]}.bn.{match[4]}"
    if match := re.fullmatch(r"(regressor|classifier)\.(conv_list\.\d+|header)\.(\w+\.conv)\.(\w+)", key):
        place = match[2].replace("conv_list", "conv_rep").replace("header", "predict")
        return f"{HEADS[match[1]]}.{place}.{SEPARABLE_PARTS[match[3]]}.{match[4]}"
    if match := re.fullmatch(r"bifpn\.(\d+)\.(.+)", key):
        return _bifpn_key(int(match[1]), match[2], levels) or key
    return key


def _bifpn_key(cell: int, rest: str, levels: int) -> str | None:
    """Returns effdet's key for a parameter of zylo117's BiFPN cell, or None if no rule fits.

    effdet counts a cell's nodes: top-down from the second coarsest level to P3, then bottom-up from P4 to the coarsest.
    """
    coarsest = FINEST_LEVEL + levels - 1

    def down_node(level: int) -> int:  # top-down; zylo117's conv<level>_up and p<level>_w1
        return coarsest - 1 - level

    def up_node(level: int) -> int:  # bottom-up; zylo117's conv<level>_down and p<level>_w2
        return levels - 1 + level - FINEST_LEVEL - 1

    fnode = f"fpn.cell.{cell}.fnode"
    if match := re.fullmatch(r"p(\d)_w([12])", rest):
        node = (down_node if match[2] == "1" else up_node)(int(match[1]))
        return f"{fnode}.{node}.combine.edge_weights"
    if match := re.fullmatch(r"conv(\d)_(up|down)\.(depthwise_conv\.conv|pointwise_conv\.conv|bn)\.(\w+)", rest):
        node = (down_node if match[2] == "up" else up_node)(int(match[1]))
        return f"{fnode}.{node}.after_combine.conv.{SEPARABLE_PARTS[match[3]]}.{match[4]}"
    if match := re.fullmatch(r"p(\d)_down_channel(_2)?\.(0\.conv|1)\.(\w+)", rest):
        level = int(match[1])
        # The projected level is fused twice in P4 and P5, with two projections; P3's only node is the top-down one.
        node = (up_node if match[2] else down_node)(level)
        part = "conv" if match[3] == "0.conv" else "bn"
        return f"{fnode}.{node}.combine.resample.{level - FINEST_LEVEL}.conv.{part}.{match[4]}"
    if match := re.fullmatch(r"p5_to_p6\.(0\.conv|1)\.(\w+)", rest):
        part = "conv" if match[1] == "0.conv" else "bn"
        return f"fpn.resample.{6 - FINEST_LEVEL}.conv.{part}.{match[2]}"
    return None


def block_places(model_keys: Iterable[str], prefix: str) -> list[tuple[int, int]]:
    """Lists (stage, layer) of the model's blocks whose keys begin with `prefix`, in order."""
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.(\d+)\.")
    return sorted({(int(match[1]), int(match[2])) for key in model_keys if (match := pattern.match(key))})


def pyramid_levels(model_keys: Iterable[str]) -> int:
    """Counts the levels of the BiFPN: a cell has two nodes for a level, but one for the finest and the coarsest."""
    nodes = {match[1] for key in model_keys if (match := re.match(r"fpn\.cell\.0\.fnode\.(\d+)\.", key))}
    return len(nodes) // 2 + 1
