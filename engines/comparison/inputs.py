"""Makes the inputs on which an engine is compared: an image as the model's spec takes it, or arrays."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Spec
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import preparation
from effedge.deploy.runtime.runner import has_nan
from effedge.deploy.timing.synthetic_inputs import synthetic_array, synthetic_image
from effedge.engines.onnx_header import DTYPES, Header

IMAGE = "image"  # the input of effedge's own models
ARRAYS = (".npz", ".npy")

# What np.load raises for a damaged file: its own errors, those of zipfile and zlib, and of the memory for a huge array.
DAMAGED_ARRAYS = (
    OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError, OverflowError, MemoryError, RuntimeError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def inputs_of_run(header: Header, file: str = "") -> Optional[Dict[str, np.ndarray]]:
    """Returns the inputs of a run with the usual batch: an image for a model with a spec, and else arrays. None where
    the model takes no tensors of numbers of fixed sizes behind the first.

    Args:
        file: an image, or an .npz or .npy of arrays, whose first axis is the samples; empty: drawn inputs, arrays of
            random numbers.

    Raises UserError if the file cannot be read, or does not have the inputs.
    """
    arrays = read_arrays(Path(file), header) if file.endswith(ARRAYS) else {}
    if header.spec and set(header.inputs) == {IMAGE} and not arrays:
        image = open_image(file) if file else synthetic_image()
        return image_batch(preparation(header.spec["input"])(image).pixels, header.spec)
    if file and not arrays:
        raise UserError(
            f"--compare-on '{file}': the model does not say how it takes images: give an .npz of its inputs"
        )
    batch = header.batch[1] if header.batch else 1
    feeds = {}
    for seed, (name, (element, dims)) in enumerate(header.inputs.items()):
        kind = DTYPES.get(element, "string")
        if dims is None or kind in ("string", "bfloat16") or any(isinstance(size, str) for size in dims[1:]):
            return None
        shape = tuple(size if isinstance(size, int) else batch for size in dims)
        if name in arrays:
            feeds[name] = first_sample(name, arrays[name], shape, kind, file)
        else:
            drawn = synthetic_array(shape, "int8" if kind == "bool" else kind, seed)
            feeds[name] = drawn.astype(bool) if kind == "bool" else drawn
    return feeds or None


def read_arrays(path: Path, header: Header) -> Dict[str, np.ndarray]:
    """Reads the inputs' arrays. Raises UserError unless the file has one of each."""
    try:
        loaded: Any = np.load(str(path), allow_pickle=False)
        arrays = {next(iter(header.inputs)): loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except DAMAGED_ARRAYS as error:
        raise UserError(f"--compare-on '{path}' is no whole .npz or .npy file of plain arrays ({error})") from error
    missing = [name for name in header.inputs if name not in arrays]
    if missing:
        raise UserError(f"--compare-on '{path}' has {sorted(arrays)}, but the model takes {list(header.inputs)}")
    return arrays


def first_sample(name: str, array: np.ndarray, shape: Any, kind: str, file: str) -> np.ndarray:
    """Returns the first rows of an array, as many as a run takes, or its first sample, which is a whole input.

    Raises UserError for an array of another type or shape, or with NaN.
    """
    if array.dtype.name != kind:
        raise UserError(f"--compare-on '{file}': '{name}' is {array.dtype}, the model takes {kind}: convert it")
    if has_nan(array):
        raise UserError(f"--compare-on '{file}': '{name}' has values that are NaN: expected numbers")
    if array.shape[1:] == shape and len(array):
        return np.asarray(array[0], order="C")  # np.ascontiguousarray gives a number an axis
    if not shape or array.shape[1:] != shape[1:] or not len(array):
        raise UserError(f"--compare-on '{file}': '{name}' has shape {list(array.shape)}, the model takes {list(shape)}")
    return np.ascontiguousarray(np.resize(array, shape) if len(array) < shape[0] else array[: shape[0]])


def image_batch(pixels: np.ndarray, spec: Spec) -> Dict[str, np.ndarray]:
    """Returns a prepared image, uint8 [h,w,3], as the input of a run with the usual batch."""
    return {IMAGE: np.repeat(pixels[None], spec["input"]["batch"][1], axis=0)}
