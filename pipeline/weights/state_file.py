"""Reads the file of a checkpoint from any trainer: its tensors, and what else it says.

A .safetensors, or a file of torch.save under any of the names that trainers give it, by
torch.load(weights_only=True), which runs no code from the file. Trainers nest their weights: in a dict beside the
optimizer's, in dicts of dicts. All tensors come out under dotted paths, "state_dict.model.conv_stem.weight" say;
`effedge.pipeline.weights.match_keys` finds a model's among them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.strict_json import parse_json
from effedge.pipeline.models.names import CHECKPOINT_SUFFIXES
from effedge.pipeline.weights.locate import config_file
from effedge.pipeline.weights.pickled_types import SAFE_TYPES, plain

# Modules that wrap others without a change to them: DataParallel, torch.compile, FSDP, activation checkpointing.
TRANSPARENT = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


MOST_REASON = 200  # characters


class StateFile(NamedTuple):
    """The content of a file.

    tensors: by their dotted paths, without the names of transparent wrappers.
    values: every other entry of a dict, a number, a text or a list of them, by its dotted path.
    metadata: of a .safetensors.
    """

    path: Path
    tensors: dict[str, Tensor]
    values: dict[str, object]
    metadata: dict[str, str]


def read_file(path: Path) -> StateFile:
    """Reads a checkpoint's file, and the config.json beside a file of the Hugging Face hub.

    Raises:
        UserError: the file cannot be read, is of no known kind, or holds no tensors.
    """
    metadata: dict[str, str] = {}
    content: object
    if path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    elif path.name.endswith(CHECKPOINT_SUFFIXES):
        content = plain(_read_torch(path))
    else:
        kinds = f"{', '.join(CHECKPOINT_SUFFIXES[:-1])} or {CHECKPOINT_SUFFIXES[-1]}"
        raise UserError(f"checkpoint '{path}' is of unknown kind: expected {kinds}")
    tensors: dict[str, Tensor] = {}
    values: dict[str, object] = {}
    for key, value in _leaves(content, ""):
        if isinstance(value, Tensor):
            short = ".".join(part for part in key.split(".") if part not in TRANSPARENT)
            tensors[key if short in tensors else short] = value
        else:
            values[key] = value
    if not tensors:
        held = f"a dict of {list(content)[:5]}" if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"checkpoint '{path}' holds no state dict, but {held}: save model.state_dict() and give that")
    if config := config_file(path):
        values |= _leaves(_read_json(config), "")
    return StateFile(path, tensors, values, metadata)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads all tensors of a file, in float32, under their dotted paths; and a .safetensors' metadata."""
    file = read_file(path)
    return {key: as_float32(value) for key, value in file.tensors.items()}, file.metadata


def as_float32(value: Tensor) -> Tensor:
    """Converts a floating-point tensor to float32; returns any other as it is."""
    return value.float() if value.is_floating_point() else value


def _leaves(content: object, path: str) -> Iterator[tuple[str, object]]:
    """Lists (dotted path, value) of all tensors, and of the other values: numbers, texts and lists without dicts."""
    if isinstance(content, list) and any(isinstance(value, Mapping | Tensor) for value in content):
        content = dict(enumerate(content))
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif content is not None:
        yield path, content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:  # a dtype, a shape
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_unsafe(path, str(error))) from error
    except Exception as error:  # torch.load raises almost anything on a damaged file
        raise _unreadable(path, error) from error


def _unsafe(path: Path, reason: str) -> str:
    """Writes the error for a file that holds other classes; `reason` is torch's text, which may name one."""
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    holds = f"it holds a Python object of '{named[1]}'" if named else "it is damaged, or holds Python objects"
    return (
        f"checkpoint '{path}' cannot be read safely: {holds} beside tensors (a whole pickled model, say); save "
        "model.state_dict() and give that"
    )


def _read_json(path: Path) -> object:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:MOST_REASON]
    return UserError(f"checkpoint '{path}' is damaged or cut short ({reason}): get it again")
