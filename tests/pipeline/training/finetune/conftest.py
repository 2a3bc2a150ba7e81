"""The small networks of tests/calibration, for fine-tuning."""

import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file


@pytest.fixture
def load():
    """A Network as onnx_file.load would give it."""
    return lambda net, spec=None: onnx_file.prepare(ir.from_proto(net.proto(spec=spec)))
