"""Saves effedge's checkpoints (safetensors in 16 bit with labels and input size), and starts models from any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from effedge.deploy.common.files import atomic_file
from effedge.pipeline.weights.key_dialects import ZYLO117_BACKBONE, translate
from effedge.pipeline.weights.state_file import read_state

BACKBONE = "backbone."


def save_weights(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a state dict in 16 bit; BatchNorm's variances, which may leave float16's range, stay in 32."""
    stored = {}
    for key, value in state.items():
        half = value.is_floating_point() and not key.endswith("running_var")
        stored[key] = (value.half() if half else value).contiguous()
        if half and not torch.isfinite(stored[key]).all():
            stored[key] = value.contiguous()
    with atomic_file(path) as temporary:
        temporary.write_bytes(save(stored, dict(metadata)))  # a full disk is an OSError here, which save_file hides


def load_matching(model: nn.Module, path: Path) -> int:
    """Loads the tensors that fit by key and shape, a classifier's into a detector's backbone; returns their number.

    The file may be of any kind that `effedge.pipeline.weights.state_file` reads, in any dialect that
    `effedge.pipeline.weights.key_dialects` translates. Raises UserError if the file holds no state dict.
    """
    raw, _ = read_state(path)
    own = model.state_dict()
    of_backbone = any(key.startswith(BACKBONE) for key in own)
    if of_backbone and not any(key.startswith((BACKBONE, ZYLO117_BACKBONE)) for key in raw):
        inner = [key.removeprefix(BACKBONE) for key in own if key.startswith(BACKBONE)]
        state = {BACKBONE + key: value for key, value in translate(raw, inner).items()}
    else:
        state = translate(raw, own)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return len(fitting)
