"""The stages that are run with faults: small ones, whose results are the same to the last byte each time."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.engines.build import make_engine
from effedge.engines.build_options import DEFAULT
from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.pipeline.shipping.bundle import bundle_stage
from tests.engines import graphs
from tests.faults.harness import Stage


def write_network(path: Path, version: int) -> None:
    """Writes an ONNX of two convolutions on 8 x 8 pixels, with weights of the version."""
    generator = np.random.default_rng(version)
    weights = [generator.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 3, 3), (2, 4, 1, 1))]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "w1"], ["scores"], name="second"),
        ],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, 8, 8])],
        [numpy_helper.from_array(value, f"w{index}") for index, value in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def network_and_arrays(folder: Path, version: int) -> None:
    write_network(folder / "net.onnx", version)
    images = np.random.default_rng(9).standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "arrays.npz", image=images)


def chain(precision: str, target: str) -> Stage:
    words = ["engine", "--onnx", "net.onnx", "--precision", precision, "--target", target, "--out", "build", "-q"]
    if precision == "int8":
        words += ["--calibration", "arrays.npz"]
    modules = ["effedge.pipeline.chain", "onnxsim", "effedge.engines.onnxruntime.builder", "tests.faults.calls"]
    return Stage(f"chain in {precision} for {target}", network_and_arrays, lambda _: ("effedge", words), modules)


def photographs(folder: Path, version: int) -> None:
    """Writes two images with two objects each, whose classes and files have names that are nearly alike."""
    (folder / "images").mkdir(exist_ok=True)
    annotations = []
    for number, name in enumerate(("a.png", "a.bmp")):
        pixels = np.random.default_rng([version, number]).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        for class_id in (1, 2):
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": class_id, "iscrowd": 0, "area": 144,
                "bbox": [2 + 10 * class_id, 5, 12, 12],
            })  # fmt: skip
    images = [{"id": i, "file_name": n, "width": 40, "height": 40} for i, n in enumerate(("a.png", "a.bmp"))]
    categories = [{"id": 1, "name": "a/b"}, {"id": 2, "name": "a_b"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(data))


CROPS = Stage(
    "crops",
    photographs,
    lambda _: ("effedge", ["crops", "data.json", "--images", "images", "--out", "cut", "-q"]),
    ["effedge.pipeline.datasets.crops"],
)


def engine_of_network(folder: Path, version: int) -> None:
    write_network(folder / "net.onnx", version)
    make_engine(folder / "net.onnx", folder / "engine", precision="fp32", target=TARGETS["cpu-ort"])


def refused(work: Path) -> None:
    """A baseline beside another's engine is refused, not compared with."""
    from effedge.deploy.latency_test import read_baseline

    try:
        read_baseline(work / "baseline.json")
    except UserError:
        return
    raise AssertionError("a baseline beside another's engine is believed")


BASELINE = Stage(
    "latency baseline",
    engine_of_network,
    lambda version: ("baseline", ["engine", "baseline.json", str(version)]),
    ["effedge.deploy.latency_test", "effedge.deploy.timing.interleaved", "effedge.deploy.timing.regression",
     "effedge.deploy.timing.workload", "unittest.mock"],
    mixed=refused,
)  # fmt: skip


@functools.cache
def bundle_of(version: int) -> bytes:
    """Packs a bundle of a small classifier with weights of the version; returns the archive."""
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = graphs.network(Path(folder) / "fp32.onnx", opset=17, seed=version)
        request = BuildRequest(onnx_path, read_header(onnx_path), "fp32", TARGETS["cpu-ort"], DEFAULT, None)
        return bundle_stage(request).read_bytes()


def unpacked_bundle(folder: Path, version: int) -> None:
    """Unpacks a bundle, but for effedge's own code, over the files of another one that was installed there."""
    with tarfile.open(fileobj=io.BytesIO(bundle_of(version))) as archive:
        for member in archive.getmembers():
            name = member.name.partition("/")[2]
            if not name.startswith("effedge/"):
                archive.extract(member.replace(name=name, deep=False), folder, filter="data")


INSTALLATION = Stage(
    "installation on a board",
    unpacked_bundle,
    lambda version: ("install", [str(version)]),
    ["effedge.engines.install", "effedge.engines.build", "effedge.engines.onnxruntime.builder",
     "effedge.deploy.predict", "effedge.engines.selftest", "effedge.deploy.runtime.onnxruntime_backend",
     "unittest.mock"],
    free=("candidate/", "earlier-engine/"),
)  # fmt: skip


def two_classes(folder: Path, _version: int) -> None:
    """Writes two images of each of two classes."""
    for label in "ab":
        (folder / "classes" / label).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            pixels = np.random.default_rng([ord(label), number]).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "classes" / label / f"{number}.png")


def training(version: int) -> tuple[str, Sequence[str]]:
    words = ["b0", "--data", "classes", "--size", "32", "--steps", "2", "--batch", "2", "--workers", "0", "-q"]
    return "train", [*words, "--init", "random", "--seed", str(version), "--out", "mine.safetensors"]


TRAINING = Stage(
    "training of two steps",
    two_classes,
    training,
    ["effedge.pipeline.training.train"],
    free=(".resume.pt", ".log.jsonl", ".png"),
)


def bundling(version: int) -> tuple[str, Sequence[str]]:
    words = ["bundle", "b0", "--weights", "random", "--size", "32", "--precision", "fp32", "--target", "cpu"]
    return "effedge", [*words, "--selftest-image", f"image{version}.png", "--out", "build", "-q"]


def images_for_bundle(folder: Path, version: int) -> None:
    pixels = np.random.default_rng(version).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"image{version}.png")


BUNDLE = Stage("bundle", images_for_bundle, bundling, ["effedge.pipeline.chain", "effedge.pipeline.shipping.bundle"])
