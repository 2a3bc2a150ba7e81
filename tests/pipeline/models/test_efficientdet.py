"""A detector with every neck, and on V2, through the whole chain: ONNX, simplification, INT8 and a CPU engine."""

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from effedge import Detector
from effedge.engines.targets import TARGETS
from effedge.pipeline.chain import run_chain
from effedge.pipeline.models.tables import EFFICIENTDETS, NECKS, Size
from effedge.pipeline.request import Checkpoint, Request

pytest.importorskip("openvino")
DETECTORS = [name for name in EFFICIENTDETS if name.startswith("det-lite0")]
ON_V2 = ["det-v2-b0", "efficientdetv2_dt"]  # the second resizes bilinearly


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(random.integers(0, 256, (120, 160, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, images):
    """A function of the detector's name that returns the folder of its INT8 engine at 128."""

    @functools.cache
    def build(name) -> Path:
        source = Checkpoint(name, "random", size=Size(128, 128), classes=3)
        return run_chain(Request(source, "int8", TARGETS["cpu"], tmp_path_factory.mktemp("build"), calibration=images))

    return build


def test_every_neck_is_tested_here():
    assert len(DETECTORS) == len(NECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DETECTORS, *ON_V2])
def test_a_detector_with_any_neck_or_backbone_becomes_an_int8_engine(name, built, images):
    """The simplification compares its graph with the exported one, the engine's build its outputs with the graph's."""
    engine = built(name)
    graph = onnx.load(engine.parent / "simplified.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"Softmax", "Relu", "ReduceSum", "Identity", "Expand"}  # the weights are constants
    quantized = onnx.load(next(engine.parent.glob("int8*.onnx"))).graph
    pairs = {node.output[0] for node in quantized.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in quantized.node if node.op_type == "Conv"]
    # The calibration leaves small layers in float; 95% of the multiply-adds are in INT8.
    assert sum(node.input[0] in pairs for node in convolutions) > 0.5 * len(convolutions)
    detections = Detector(str(engine), threshold=0.0)(np.asarray(Image.open(images / "0.png")))
    assert len(detections) > 0 and np.isfinite(detections.boxes).all()
