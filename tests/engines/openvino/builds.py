"""Builds engines of OpenVINO for the tests, and tells what this CPU computes in."""

import json

import pytest

from effedge.engines.build import build_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.targets import TARGETS

ov = pytest.importorskip("openvino")
CAPABILITIES = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def built(onnx, folder, precision="int8", **asked):
    """Builds an engine with these BuildOptions into a new folder; returns its manifest."""
    folder.mkdir()
    build_engine(onnx, folder, precision=precision, target=TARGETS["cpu"], build_options=BuildOptions(**asked))
    return json.loads((folder / "manifest.json").read_text())
