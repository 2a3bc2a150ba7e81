"""The chain to an FP8 engine, from an ONNX file, and the targets that have none."""

import json

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.targets import ROWS, TARGETS
from effedge.pipeline.chain import run_chain
from effedge.pipeline.request import OnnxFile, Request
from tests.calibration.networks import Network

SHAPE = (1, 32, 16, 16)


@pytest.fixture
def onnx(tmp_path):
    net = Network()
    x = net.silu(net.conv(net.input("x", list(SHAPE)), "first", 32, 64, kernel=3), "act")
    net.output(net.conv(x, "second", 64, 32), list(SHAPE))
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(4, *SHAPE[1:])).astype(np.float32))
    return net.save(tmp_path / "net.onnx")


def request(onnx, target="rtx", calibrated=True):
    calibration = onnx.with_name("data.npz") if calibrated else None
    return Request(OnnxFile(onnx), "fp8", TARGETS[target], onnx.parent / "build", calibration=calibration)


def test_an_onnx_file_becomes_an_fp8_engine(onnx):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    engine = run_chain(request(onnx))
    assert engine.name == "fp8-rtx"
    manifest = json.loads((engine / "manifest.json").read_text())
    assert manifest["precision"]["convolutions"] == {"fp8": 2}
    assert manifest["traffic"]["by_type"]["fp8"] > 0
    assert {path.name for path in engine.parent.glob("*.onnx")} == {"simplified.onnx", "fp8.onnx", "fp8-fp16.onnx"}


def test_it_needs_data(onnx):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    with pytest.raises(UserError, match=r"FP8 of '.*net.onnx' needs data like what it will see"):
        run_chain(request(onnx, calibrated=False))


@pytest.mark.parametrize("target", [row.name for row in ROWS if row.name not in ("rtx", "trt", "jetson-thor")])
def test_targets_without_fp8_name_those_with_it(onnx, target):
    """FP8 begins with compute capability 8.9 and TensorRT 10; a Thor is 11.0, an Orin 8.7."""
    with pytest.raises(UserError, match=r"has no FP8; rtx, trt, jetson-thor have it, .* capability 8.9 on"):
        request(onnx, target)
