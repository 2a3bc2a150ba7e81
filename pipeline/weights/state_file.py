"""Reads the file of a checkpoint from any trainer into a flat state dict.

A .safetensors, or a .pth or .pt by torch.load(weights_only=True), which runs no code from the file. Trainers wrap their
weights: in a dict beside the optimizer's, under `module.` (DataParallel) or `model.` (a training wrapper). These
wrappers are taken off. `effedge.pipeline.weights.key_dialects` translates the keys.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effedge.deploy.common.cli import UserError

# The keys of the weights in a trainer's file; averaged weights before the last step's, as they are the ones to deploy.
WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads (state dict in float32, metadata) from a .safetensors, .pth or .pt file; only .safetensors has metadata.

    Raises:
        UserError: the file cannot be read, or holds no state dict.
    """
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        state, metadata = _state_dict(_read_torch(path), path), {}
    else:
        raise UserError(f"checkpoint '{path}' is of unknown kind: expected .safetensors, .pth or .pt")
    state = _without_prefixes(state)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint '{path}' cannot be read safely: it is damaged, or holds Python objects beside tensors "
            "(a whole pickled model, say); save model.state_dict() and give that"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"checkpoint '{path}' is damaged or cut short ({reason}): get it again")


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """Unwraps nested dicts until the values are tensors."""
    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
            break
        content = inner
    held = f"a dict of {list(content)[:5]}" if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f"checkpoint '{path}' holds no state dict, but {held}: save model.state_dict() and give that")


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strips a wrapper's prefix if most keys have it; the few other keys are the wrapper's own (anchors, say)."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inner = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
            if len(inner) > len(state) / 2:
                state, stripped = inner, True
    return state
