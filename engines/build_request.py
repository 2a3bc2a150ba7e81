"""Holds the inputs of a backend's builder: the ONNX, the precision, the target and the build options."""

from dataclasses import dataclass
from pathlib import Path

from effedge.engines.build_options import DEFAULT, BuildOptions
from effedge.engines.onnx_header import Header
from effedge.engines.targets import Target


@dataclass(frozen=True)
class BuildRequest:
    """An engine to be built; `header` is that of the file `onnx`."""

    onnx: Path
    header: Header
    precision: str
    target: Target
    build_options: BuildOptions = DEFAULT
