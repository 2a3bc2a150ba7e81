"""Small engine folders, built with OpenVINO, whose answers can be worked out by hand.

The detector finds colours: candidate 0 is the box around the pixels whose red is above 127, with score 0.9 and class
0; green is 1 (score 0.8), blue is 2 (0.7). A colour that is nowhere scores 0. The classifier's logits are the mean
red, green and blue of its input, of seven classes; the other four are 0.25, 0.5, 0.75 and 1. The engine without a spec
adds an int32 [N,1] to a float32 [N,3].
"""

import ctypes
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import openvino as ov
import pytest

from tests.deploy import fake_cuda

try:
    import openvino.opset13 as ops
except ImportError:  # where it was before OpenVINO 2025, the first that does not run on Python 3.8
    import openvino.runtime.opset13 as ops

Build = Callable[..., Path]


def f32(values: Any) -> Any:
    return ops.constant(np.asarray(values, np.float32))


def colour_finder(batch: int, height: int, width: int) -> Any:
    """The detector of this module's docstring; batch -1 is dynamic."""
    image = ops.parameter([batch, height, width, 3], np.uint8, name="image")
    image.output(0).get_tensor().set_names({"image"})
    mask = ops.convert(ops.greater(image, ops.constant(np.uint8(127))), np.float32)
    sides = []
    for axis, length in ((1, width), (2, height)):  # over rows: which columns; over columns: which rows
        line = ops.reduce_max(mask, ops.constant(np.int64([axis])), False)  # [N,length,3]
        position = np.arange(length).reshape(1, -1, 1)
        last = ops.reduce_max(ops.multiply(line, f32(position + 1)), ops.constant(np.int64([1])), False)
        first = ops.reduce_max(ops.multiply(line, f32(length - position)), ops.constant(np.int64([1])), False)
        sides += [ops.subtract(f32(length), first), last]
    x0, x1, y0, y1 = (ops.unsqueeze(side, ops.constant(np.int64([2]))) for side in sides)
    boxes = ops.concat([x0, y0, x1, y1], 2)
    present = ops.reduce_max(mask, ops.constant(np.int64([1, 2])), False)  # [N,3]
    scores = ops.multiply(present, f32([0.9, 0.8, 0.7]))
    classes = ops.convert(ops.add(ops.multiply(present, f32(0)), f32([0, 1, 2])), np.int32)
    return model([image], {"boxes": boxes, "scores": scores, "classes": classes})


def colour_mean(batch: int, height: int, width: int) -> Any:
    """The classifier of this module's docstring."""
    image = ops.parameter([batch, height, width, 3], np.uint8, name="image")
    image.output(0).get_tensor().set_names({"image"})
    mean = ops.reduce_mean(
        ops.convert(image, np.float32), ops.constant(np.int64([1, 2])), False
    )  # [N,3], from 0 to 255
    rest = ops.add(ops.multiply(mean, f32(np.zeros((3,)))), f32(0))
    four = ops.add(ops.reduce_max(rest, ops.constant(np.int64([1])), True), f32([0.25, 0.5, 0.75, 1.0]))
    return model([image], {"logits": ops.concat([mean, four], 1)})


def addition() -> Any:
    """The engine without a spec: "sum" is x + y, "twice" is 2 y; the batch is dynamic."""
    x, y = ops.parameter([-1, 3], np.float32, name="x"), ops.parameter([-1, 1], np.int32, name="y")
    for parameter in (x, y):
        parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
    total = ops.add(x, ops.convert(y, np.float32))
    return model([x, y], {"sum": total, "twice": ops.add(y, y)})


def model(inputs: List[Any], outputs: Dict[str, Any]) -> Any:
    results = []
    for name, node in outputs.items():
        node.output(0).get_tensor().set_names({name})
        results.append(ops.result(node))
    return ov.Model(results, inputs, "tiny")


def write_engine(folder: Path, network: Any, spec: Dict[str, Any], **fields: Any) -> None:
    """Writes an engine folder with a manifest as engines/ writes it, as far as the runtime reads it."""
    folder.mkdir()
    ov.save_model(network, str(folder / "engine.xml"), compress_to_fp16=False)
    files = {path.name: sha(path) for path in sorted(folder.iterdir())}
    backend = {"name": "openvino", "version": ov.__version__, "config": {"INFERENCE_PRECISION_HINT": "f32"}}
    manifest = {"format": 1, "spec": spec, "target": "cpu", "backend": backend, "engine": "engine.xml", **fields}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """build(task, size=(H, W), batch=[min, opt, max], labels=...) makes an engine folder and returns it."""

    def make(
        task: str = "detection",
        size: Any = (64, 64),
        batch: Any = (1, 1, 1),
        labels: Optional[List[Any]] = None,
        name: str = "engine",
    ) -> Path:
        folder = tmp_path / name
        count = batch[0] if batch[0] == batch[2] else -1
        network = (colour_finder if task == "detection" else colour_mean)(count, *size)
        spec: Dict[str, Any] = {"model": "tiny", "task": task, "weights": "none"}
        spec["labels"] = labels or (["red", "green", "blue"] if task == "detection" else list("abcdefg"))
        spec["input"] = {"size": list(size), "batch": list(batch), "interpolation": "bilinear"}
        if task == "detection":
            spec["input"].update(resize="letterbox", fill=[0, 0, 0])
            spec["candidates"] = 3
        else:
            spec["input"].update(resize="center-crop", crop=1.0)
        image = {"name": "image", "dtype": "uint8", "shape": ["N" if count == -1 else count, *size, 3]}
        outputs = [{"name": output.get_any_name(), "dtype": "any", "shape": None} for output in network.outputs]
        write_engine(folder, network, spec, inputs=[image], outputs=outputs, batch=list(batch))
        return folder

    return make


@pytest.fixture
def adder(tmp_path: Path) -> Path:
    """The folder of the engine without a spec."""
    shapes = {
        "x": ("float32", ["N", 3]),
        "y": ("int32", ["N", 1]),
        "sum": ("float32", ["N", 3]),
        "twice": ("int32", None),
    }
    rows = [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in shapes.items()]
    write_engine(tmp_path / "adder", addition(), {}, inputs=rows[:2], outputs=rows[2:], batch=[1, 2, 4])
    return tmp_path / "adder"


@pytest.fixture
def edit() -> Callable[..., None]:
    """edit(folder, change): change(manifest) alters an engine folder's manifest in place."""

    def apply(folder: Path, change: Callable[[Dict[str, Any]], Any]) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return apply


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA kernels' arithmetic, compiled for the host."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++) to compile the kernels for the host with")
    return fake_cuda.compile_host_kernels(compiler, tmp_path_factory.mktemp("kernels"))
