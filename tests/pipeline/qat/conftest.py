"""The small networks of tests/calibration, for fine-tuning."""

import sys
from pathlib import Path

import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "calibration"))

from calibration import onnx_file  # noqa: E402


@pytest.fixture
def load():
    """A Network as onnx_file.load would give it."""
    return lambda net, spec=None: onnx_file.prepare(ir.from_proto(net.proto(spec=spec)))
