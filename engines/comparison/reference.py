"""Runs an ONNX in ONNX Runtime as it is written, without ONNX Runtime's own optimizations.

ONNX Runtime is the reference: it is the runtime of the ONNX project's own members, and runs its test suite. It need not
be installed where engines are built; without it they are not compared.
"""

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Union

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.outputs import link_or_copy
from effedge.engines.onnx_header import onnx_files

GRAPH, OUTPUT, NAME = 7, 12, 1  # field numbers of onnx.proto3: ModelProto.graph, GraphProto.output, ValueInfoProto.name


def is_installed() -> bool:
    """Tells if there is a reference."""
    return importlib.util.find_spec("onnxruntime") is not None


def describe() -> str:
    """Names the reference, with its version."""
    return f"ONNX Runtime {importlib.import_module('onnxruntime').__version__}"


class Reference:
    """An open model."""

    def __init__(self, onnx: Union[Path, bytes], source: Path, more_outputs: Sequence[str] = ()) -> None:
        """Opens a model.

        Args:
            onnx: its file, or the content of a model that has no other files.
            source: its name in errors.
            more_outputs: tensors that are outputs too.

        Raises UserError if ONNX Runtime refuses it.
        """
        self.source = source
        try:
            if isinstance(onnx, bytes):
                self.session = open_session(onnx + as_outputs(more_outputs))
            elif more_outputs:
                self.session = self.with_outputs(onnx, more_outputs)
            else:
                self.session = open_session(str(onnx))
        except Exception as error:  # ONNX Runtime's have no base of their own
            raise self.refused(error) from error
        self.outputs = [output.name for output in self.session.get_outputs()]

    def with_outputs(self, onnx: Path, names: Sequence[str]) -> Any:
        """Opens a copy of the model, beside the files of its weights."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "model.onnx"
            copy.write_bytes(onnx.read_bytes() + as_outputs(names))
            for role, path in onnx_files(onnx).items():
                if role != "onnx":
                    (copy.parent / role).parent.mkdir(parents=True, exist_ok=True)
                    # no symbolic link: ONNX Runtime follows none out of a model's folder
                    link_or_copy(path.resolve(), copy.parent / role)
            return open_session(str(copy))

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Dict[str, np.ndarray]:
        """Runs once, and returns the outputs, or those that are named; feeds that the model does not have are left out.

        Raises UserError if ONNX Runtime cannot run it.
        """
        names = list(outputs or self.outputs)
        try:
            needed = {model_input.name: feeds[model_input.name] for model_input in self.session.get_inputs()}
            return dict(zip(names, map(usual_type, self.session.run(names, needed))))
        except Exception as error:
            raise self.refused(error) from error

    def refused(self, error: Exception) -> UserError:
        return UserError(f"ONNX Runtime cannot run '{self.source}': {' '.join(str(error).split())}")


def usual_type(value: Any) -> Any:
    """Returns an array of integers with NumPy's usual type of their size. ONNX Runtime's int64 may be C's `long long`:
    NumPy holds that for equal to int64, which is C's `long`, and OpenVINO refuses it."""
    is_integer = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return value.view(value.dtype.str) if is_integer else value


def open_session(model: Union[str, bytes]) -> Any:
    """Opens a session without optimizations."""
    from effedge.deploy.runtime.onnxruntime_backend import LOG_FATAL

    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = LOG_FATAL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def as_outputs(names: Sequence[str]) -> bytes:
    """Makes the bytes that, behind an ONNX, make tensors outputs of its graph.

    In the wire format a message that comes in two parts is one, and the entries of a repeated field add up
    (protobuf.dev/programming-guides/encoding#last-one-wins), so no onnx package is needed to add an output.
    """
    graph = b"".join(field(OUTPUT, field(NAME, name.encode())) for name in names)
    return field(GRAPH, graph) if names else b""


def field(number: int, content: bytes) -> bytes:
    """Encodes a field of bytes: its number with wire type 2, the length and the content."""
    return bytes([*varint(number << 3 | 2), *varint(len(content))]) + content


def varint(value: int) -> Iterator[int]:
    """Encodes a number, seven bits a byte, the lowest first."""
    digits: List[int] = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return iter([*digits, value])
