"""Saves effedge's checkpoints (safetensors in 16 bit with labels and input size), and starts models from any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from effedge.deploy.common.files import atomic_file
from effedge.pipeline.weights.key_dialects import fit_biases
from effedge.pipeline.weights.match_keys import find_matches
from effedge.pipeline.weights.state_file import as_float32, read_file

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

    The file may be of any kind that `effedge.pipeline.weights.state_file` reads, with the keys under any prefix and in
    any dialect that `effedge.pipeline.weights.key_dialects` translates. Raises UserError if the file holds no tensors.
    """
    tensors = read_file(path).tensors
    own = model.state_dict()
    inner = {key.removeprefix(BACKBONE): value for key, value in own.items() if key.startswith(BACKBONE)}
    states = [fit_biases(match.state, own) for match in find_matches(tensors, own)[:1]]
    states += [
        {BACKBONE + key: value for key, value in match.state.items()} for match in find_matches(tensors, inner)[:1]
    ]
    candidates = [
        {key: as_float32(value) for key, value in state.items() if key in own and own[key].shape == value.shape}
        for state in states
    ]
    fitting = max(candidates, key=len, default={})
    model.load_state_dict(fitting, strict=False)
    return len(fitting)
