"""Runs any engine folder, arrays in and arrays out.

Detector and Classifier know the inputs and outputs of effedge's own models. An engine of an ONNX of another exporter
says no more than the name, dtype and shape of each input and output, and Runner needs no more.
"""

from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import TensorDescription
from effedge.deploy.runtime.backends import load_backend
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.runtime.signature import Keys


class Tensor(NamedTuple):
    """An input or output; a dimension that is not fixed is None, and so is a shape of unknown rank."""

    name: str
    dtype: str
    shape: Optional[Tuple[Optional[int], ...]]


class Runner:
    """An engine folder, ready to run.

    >>> runner = Runner("build/net/int8-cpu")
    >>> runner.inputs[0]
    Tensor(name='x', dtype='float32', shape=(None, 3))
    >>> outputs = runner({"x": np.zeros((1, 3), np.float32), "y": np.full((1, 1), 2, np.int32)})
    >>> outputs["sum"].shape
    (1, 3)

    Attributes: `inputs` and `outputs`, lists of Tensor; `batch`, the smallest and the largest that a dynamic first
    dimension may be, or None where the engine sets no limits.
    """

    def __init__(self, folder: Union[str, Path], trusted_keys: Optional[Keys] = None) -> None:
        """Loads the engine in `folder`. Raises UserError if it is damaged or cannot run here."""
        manifest = read_manifest(folder, trusted_keys)
        try:
            self.inputs = [as_tensor(description) for description in manifest["inputs"]]
            self.outputs = [as_tensor(description) for description in manifest["outputs"]]
            batch = manifest["batch"]
            self.batch: Optional[Tuple[int, int]] = (int(batch[0]), int(batch[2])) if batch else None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"'{folder}' has a damaged manifest ({error!r}): build the engine again") from error
        self.folder, self.backend = folder, load_backend(folder, manifest)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs once; returns the outputs by name, arrays that the caller may keep.

        Raises UserError for an input that is missing or unknown, or an array of another dtype or shape, or with NaN.
        """
        names = [tensor.name for tensor in self.inputs]
        if set(feeds) != set(names):
            raise UserError(
                f"inputs {sorted(feeds)} were given, '{self.folder}' takes {sorted(names)}: give exactly those"
            )
        for tensor in self.inputs:
            self.check(tensor, feeds[tensor.name])
        results = self.backend(dict(feeds))
        return {tensor.name: results[tensor.name] for tensor in self.outputs}

    def check(self, tensor: Tensor, array: object) -> None:
        """Raises UserError unless the input `tensor` takes `array`."""
        if not isinstance(array, np.ndarray):
            raise UserError(
                f"input '{tensor.name}' is a {type(array).__name__}, expected a NumPy array of {tensor.dtype}"
            )
        if array.dtype.name != tensor.dtype or not array.dtype.isnative:
            raise UserError(f"input '{tensor.name}' is {array.dtype}, '{self.folder}' takes {tensor.dtype}: convert it")
        if has_nan(array):
            raise UserError(f"input '{tensor.name}' has {np.isnan(array).sum()} values that are NaN: expected numbers")
        if tensor.shape is None:
            return
        fits = len(array.shape) == len(tensor.shape) and all(
            expected in (None, size) for expected, size in zip(tensor.shape, array.shape)
        )
        if not fits:
            shape: List[Union[int, str]] = ["any" if size is None else size for size in tensor.shape]
            raise UserError(f"input '{tensor.name}' has shape {list(array.shape)}, '{self.folder}' takes {shape}")
        if self.batch and tensor.shape[:1] == (None,) and not self.batch[0] <= len(array) <= self.batch[1]:
            limits = f"{self.batch[0]} to {self.batch[1]}"
            raise UserError(f"input '{tensor.name}' has a batch of {len(array)}, '{self.folder}' takes {limits}")


def has_nan(array: np.ndarray) -> bool:
    """Tells if an array has NaN, which no network gives a meaning to.

    NumPy has no fast path for float16: its isnan takes 3 ms for three channels of 640 x 640, this takes 0.1 ms.
    """
    if array.dtype == np.float16:
        return bool(array.size) and bool((array.view(np.uint16) & 0x7FFF).max() > 0x7C00)  # all exponent bits, and more
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def as_tensor(description: TensorDescription) -> Tensor:
    """Converts an entry of the manifest's `inputs` or `outputs`, whose dynamic dimensions are names."""
    shape = description["shape"]
    return Tensor(
        description["name"],
        description["dtype"],
        None if shape is None else tuple(size if isinstance(size, int) else None for size in shape),
    )
