"""Holds the inputs of a backend's builder: the ONNX, the precision, the target and the build options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from effedge.deploy.common.cli import UserError
from effedge.engines.build_options import DEFAULT, BuildOptions
from effedge.engines.onnx_header import Header
from effedge.engines.targets import Target


@dataclass(frozen=True)
class BuildRequest:
    """An engine to be built.

    Attributes:
        header: of the file `onnx`.
        ranges: a calibration cache with the INT8 ranges of the tensors of `onnx`, in place of Q/DQ pairs.
    """

    onnx: Path
    header: Header
    precision: str
    target: Target
    build_options: BuildOptions = DEFAULT
    ranges: Optional[Path] = None


class NoImplementationError(UserError):
    """The backend has no kernel for a layer in the precision that the ONNX asks for. `nodes`: the names of the ONNX
    nodes that the layer may have come from, as far as the backend says."""

    def __init__(self, message: str, nodes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class NoSuchPrecisionError(UserError):
    """This machine does not compute in the precision."""


class RefusedError(UserError):
    """The backend does not read the model."""
