"""Any engine folder made ready to run, arrays in and arrays out.

Detector and Classifier know what effedge's own models want and give. An engine of an ONNX that somebody else made says
no more than the name, dtype and shape of each input and output, and that is what this goes by.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.backends import load_backend
from effedge.deploy.runtime.manifest import read_manifest


class Tensor(NamedTuple):
    """An input or output; a dimension that is not fixed is None, and so is a shape of unknown rank."""

    name: str
    dtype: str
    shape: Optional[Tuple[Optional[int], ...]]


class Runner:
    """An engine folder, ready to run.

    >>> runner = Runner("build/net/int8-cpu")  # doctest: +SKIP
    >>> runner({"x": np.zeros((1, 3, 64, 64), np.float32)})["y"].shape  # doctest: +SKIP
    (1, 10)

    Attributes: `inputs` and `outputs`, a Tensor each; `batch`, the smallest and the largest that a dynamic first
    dimension may be, or None where the engine sets no limits.
    """

    def __init__(self, folder: Union[str, Path]) -> None:
        """Load the engine in `folder`. Raises UserError if it is damaged or cannot run here."""
        manifest = read_manifest(folder)
        try:
            self.inputs = [as_tensor(row) for row in manifest["inputs"]]
            self.outputs = [as_tensor(row) for row in manifest["outputs"]]
            batch = manifest["batch"]
            self.batch: Optional[Tuple[int, int]] = (int(batch[0]), int(batch[2])) if batch else None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"'{folder}' has a damaged manifest ({error!r}): build the engine again") from error
        self.folder, self.backend = folder, load_backend(folder, manifest)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run once: the outputs by name, arrays that the caller may keep.

        Raises UserError for an input that is missing or unknown, or an array of another dtype or shape.
        """
        names = [wanted.name for wanted in self.inputs]
        if set(feeds) != set(names):
            raise UserError(
                f"inputs {sorted(feeds)} were given, '{self.folder}' takes {sorted(names)}: give exactly those"
            )
        for wanted in self.inputs:
            self.check(wanted, feeds[wanted.name])
        results = self.backend(dict(feeds))
        return {output.name: results[output.name] for output in self.outputs}

    def check(self, wanted: Tensor, array: Any) -> None:
        """UserError unless `array` is what the input takes."""
        if not isinstance(array, np.ndarray):
            raise UserError(
                f"input '{wanted.name}' is a {type(array).__name__}, expected a NumPy array of {wanted.dtype}"
            )
        if array.dtype.name != wanted.dtype:
            raise UserError(f"input '{wanted.name}' is {array.dtype}, '{self.folder}' takes {wanted.dtype}: convert it")
        if wanted.shape is None:
            return
        fits = len(array.shape) == len(wanted.shape) and all(
            size in (None, given) for size, given in zip(wanted.shape, array.shape)
        )
        if not fits:
            shape: List[Any] = ["any" if size is None else size for size in wanted.shape]
            raise UserError(f"input '{wanted.name}' has shape {list(array.shape)}, '{self.folder}' takes {shape}")
        if self.batch and wanted.shape[:1] == (None,) and not self.batch[0] <= len(array) <= self.batch[1]:
            limits = f"{self.batch[0]} to {self.batch[1]}"
            raise UserError(f"input '{wanted.name}' has a batch of {len(array)}, '{self.folder}' takes {limits}")


def as_tensor(row: Mapping[str, Any]) -> Tensor:
    """A row of the manifest's `inputs` or `outputs`, whose dynamic dimensions are names."""
    shape = row["shape"]
    return Tensor(
        row["name"],
        row["dtype"],
        None if shape is None else tuple(size if isinstance(size, int) else None for size in shape),
    )
