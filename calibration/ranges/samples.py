"""Loads calibration data: the inputs of the model, one run of the model at a time.

Two sources: arrays per input (.npz, or .npy for a model with one input; first axis = samples), or images (a folder, or
a COCO json with its images), which go through the model's own preprocessing as its spec says
(metadata_props["effedge"]). Listing and hashing need neither ONNX nor ONNX Runtime, so that an up-to-date stage is
found out in no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.paths import inside
from effedge.deploy.common.strict_json import parse_json
from effedge.deploy.image.files import is_hidden, is_image, open_image
from effedge.deploy.image.files import list_images as list_folder
from effedge.deploy.image.preprocess import preparation
from effedge.engines.comparison.inputs import DAMAGED_ARRAYS

ARRAY_SUFFIXES = (".npz", ".npy")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Input:
    """An input of the model: dtype, and shape with None for a symbolic dimension."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Samples:
    """A sequence of runs: `load(i)` returns the feeds of run i, `names[i]` is its name in errors."""

    names: Sequence[str]
    load: Callable[[int], dict[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index, name in enumerate(self.names):
            yield name, self.load(index)

    def spread(self, count: int) -> Samples:
        """Returns at most `count` of the samples, evenly spread."""
        return self.select(spread(range(len(self)), count))

    def without(self, count: int) -> Samples:
        """Returns the samples that `spread(count)` leaves out."""
        taken = set(spread(range(len(self)), count))
        return self.select([index for index in range(len(self)) if index not in taken])

    def beside(self, count: int) -> Samples:
        """Returns the samples that `spread(count)` leaves out; all samples, where it leaves less than half."""
        rest = self.without(count)
        return self if 2 * len(rest) < len(self) else rest

    def select(self, indices: Sequence[int]) -> Samples:
        """Returns the samples at these positions."""
        return Samples([self.names[index] for index in indices], lambda index: self.load(indices[index]))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Returns at most `count` of the items, evenly spread and in their order.

    >>> spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 4]
    """
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def list_images(data: Path, images_dir: Path | None = None, count: int | None = None) -> list[Path]:
    """Lists the image files of a folder, of its folders (one per class), or of a COCO json; in a fixed order.

    Args:
        images_dir: where the COCO json's `file_name`s lie; by default `images/` beside it, or its own folder.
        count: take that many, evenly spread over the list.

    Raises:
        UserError: nothing at `data`, no images there, no COCO json, an image that is missing, count < 1.
    """
    if count is not None and count < 1:
        raise UserError(f"--images {count}: expected 1 or more")
    if data.is_dir():
        # Classification data comes as a folder per class.
        folders = [path for path in sorted(data.iterdir()) if path.is_dir() and not is_hidden(Path(path.name))]
        per_class = folders and not any(is_image(path) for path in data.iterdir())
        paths = [path for folder in folders for path in list_folder(folder)] if per_class else list_folder(data)
    elif data.suffix.lower() == ".json" and data.is_file():
        beside = data.parent / "images"
        paths = _coco_images(data, images_dir or (beside if beside.is_dir() else data.parent))
    else:
        raise UserError(f"no calibration data at '{data}': expected a folder of images, a COCO .json, .npz or .npy")
    return spread(paths, count or len(paths))


def _coco_images(data: Path, images_dir: Path) -> list[Path]:
    try:
        paths = [
            inside(images_dir, image["file_name"], f"'{data}'") for image in parse_json(data.read_bytes())["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{data}' is no COCO json (no images with file_name): give one, or a folder") from error
    if not paths:
        raise UserError(f"'{data}' lists no images: expected a COCO json with some, or a folder of images")
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"'{data}' names '{missing}', which is missing: say where its images lie with --images-dir")
    return paths


def image_samples(paths: Sequence[Path], spec: dict[str, Any], model_input: Input) -> Samples:
    """Returns images, preprocessed as the model's spec says, in runs of the model's (static) batch.

    A last batch that is not full is filled up with its last image.

    Raises (when a run is loaded):
        UserError: a file is no image.
    """
    try:
        prepare = preparation(spec["input"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the model's preprocessing ({spec!r}) cannot be read ({error!r}): export it again") from error
    batch = model_input.shape[0] or 1
    groups = [list(paths[start : start + batch]) for start in range(0, len(paths), batch)]

    def load(index: int) -> dict[str, np.ndarray]:
        group = groups[index] + [groups[index][-1]] * (batch - len(groups[index]))
        return {model_input.name: np.stack([prepare(open_image(path)).pixels for path in group])}

    return Samples([", ".join(str(path) for path in group) for group in groups], load)


def array_samples(path: Path, inputs: Sequence[Input], count: int | None = None) -> Samples:
    """Returns the arrays of an .npz (one per input, by name) or an .npy (one input), in runs of the model's batch.

    The first axis of an array is the samples, and takes the place of the input's batch; for an input without a batch (a
    state, a scalar) it is in front of the input's own axes: [samples, 2, 1, 8] for [2, 1, 8], [samples] for a scalar.

    Raises:
        UserError: a missing input, a wrong dtype or shape, different lengths, no samples, not finite, unreadable.
    """
    if count is not None and count < 1:
        raise UserError(f"--images {count}: expected 1 or more")
    arrays = _read_arrays(path, inputs)
    batched = [each for each in inputs if not _is_per_run(path, each, arrays[each.name])]
    batch = next((each.shape[0] for each in batched if each.shape[0]), None) or 1
    rows = {each.name: each.shape[0] or batch for each in batched}  # of a run; an input without a batch has one
    lengths = {name: len(array) for name, array in arrays.items()}
    runs = {length / rows.get(name, 1) for name, length in lengths.items()}
    if len(runs) > 1:
        taken = {name: rows.get(name, 1) for name in lengths}
        per_run = f", of which a run takes {taken}" if set(taken.values()) != {1} else ""
        raise UserError(
            f"the arrays of '{path}' differ in length ({lengths}{per_run}): expected as many samples for each input"
        )
    selected = spread(range(math.ceil(runs.pop())), (count or 10**9 + batch) // batch or 1)

    def load(index: int) -> dict[str, np.ndarray]:
        feeds, run = {}, selected[index]
        for name, array in arrays.items():
            size = rows.get(name, 1)
            part = array[run * size : (run + 1) * size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            if full.dtype.kind == "f" and not np.isfinite(full).all():
                raise UserError(f"input '{name}' is NaN or infinite in sample {run * size} of '{path}': remove it")
            feeds[name] = np.asarray(np.ascontiguousarray(full) if name in rows else full[0])
        return feeds

    return Samples([f"sample {run * batch} of {path}" for run in selected], load)


def _read_arrays(path: Path, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
    names = [model_input.name for model_input in inputs]
    if not path.is_file():
        raise UserError(f"no calibration data at '{path}': expected a folder of images, a COCO .json, .npz or .npy")
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(names) != 1:
                raise UserError(f"'{path}' is one array, but the model has inputs {names}: give an .npz with all")
            return {names[0]: loaded}
        missing = [name for name in names if name not in loaded.files]
        if missing:
            raise UserError(f"'{path}' has {loaded.files}, but the model also needs {missing}: add them by name")
        return {name: loaded[name] for name in names}
    except DAMAGED_ARRAYS as error:
        raise UserError(f"'{path}' is no whole .npz or .npy file of plain arrays ({error}): make it again") from error


def _is_per_run(path: Path, expected: Input, array: np.ndarray) -> bool:
    """Checks the array of an input; returns True if a sample is the input itself, False if it is a row of its batch."""
    where = f"array '{expected.name}' of '{path}'"
    if array.dtype != expected.dtype:
        raise UserError(f"{where} is {array.dtype}, the model takes {expected.dtype}: convert it")
    per_run = _fits(array.shape[1:], expected.shape) and array.ndim > 0
    if not per_run and not (expected.shape and _fits(array.shape[1:], expected.shape[1:])):
        taken = [_text(expected.shape[1:])] if expected.shape else []
        if None not in expected.shape[:1]:
            taken.append(_text(expected.shape) + (" if it has no batch axis" if taken else ""))
        raise UserError(f"{where} has shape {list(array.shape)}, the model takes {', or '.join(taken)}: convert it")
    if len(array) == 0:
        raise UserError(f"{where} is empty: expected at least one sample")
    return per_run


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    return len(shape) == len(expected) and all(size in (None, got) for size, got in zip(expected, shape, strict=True))


def _text(sample: Sequence[int | None]) -> str:
    return f"[{', '.join(['samples', *('any' if size is None else str(size) for size in sample)])}]"
