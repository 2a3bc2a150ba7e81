"""Our own checkpoints: safetensors in 16 bit, with labels and input size as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deploy.files import whole_file

BACKBONE = "backbone."


def save_weights(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a state dict in 16 bit. BatchNorm's variances may leave float16's range, and stay in 32."""
    stored = {}
    for key, value in state.items():
        half = value.is_floating_point() and not key.endswith("running_var")
        stored[key] = (value.half() if half else value).contiguous()
        if half and not torch.isfinite(stored[key]).all():
            stored[key] = value.contiguous()
    with whole_file(path) as temporary:
        save_file(stored, temporary, dict(metadata))


def load_matching(model: nn.Module, path: Path) -> int:
    """Load what fits by key and shape, a classifier's weights into a detector's backbone; returns how many tensors."""
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    own = model.state_dict()
    if any(key.startswith(BACKBONE) for key in own) and not any(key.startswith(BACKBONE) for key in state):
        state = {BACKBONE + key: value for key, value in state.items()}
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return len(fitting)
