"""Makes prepared ONNX files, once for all tests of engines/, and boards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

from effedge.engines import targets
from effedge.engines.gpu import Gpu
from effedge.engines.targets import jetson
from tests.deploy.boards import write_board
from tests.engines import graphs


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a function from a name, such as "f32", to the path of that graph."""
    folder = tmp_path_factory.mktemp("onnx")
    return {
        "f32": graphs.network(folder / "f32.onnx"),
        "f16": graphs.network(folder / "f16.onnx", fp16=True),
        "int8": graphs.network(folder / "int8.onnx", quantized=True),
        "zero-points": graphs.network(folder / "zero-points.onnx", quantized=True, zero_point=-20),
        "int8-dynamic": graphs.network(folder / "dynamic.onnx", quantized=True, batch=(1, 2, 4)),
        "int32-bias": graphs.network(folder / "bias.onnx", quantized=True, int32_bias=True),
        "zero-bias": graphs.network(folder / "zero.onnx", quantized=True, zero_bias=True),
        "data-only": graphs.network(folder / "data.onnx", quantized=True, data_only=True),
        "no-metadata": graphs.network(folder / "bare.onnx", metadata={}),
        "any-batch": graphs.network(folder / "any-batch.onnx", metadata={}, batch=(1, 2, 4)),
        "own-batch": graphs.network(folder / "own-batch.onnx", metadata={"effedge_batch": [1, 3, 5]}, batch=(1, 2, 4)),
        "nms": graphs.non_maximum_suppression(folder / "nms.onnx"),
        "unknown-operator": graphs.unknown_operator(folder / "det.onnx"),
        "tail": graphs.detection_tail(folder / "tail.onnx"),
    }.__getitem__


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Returns a function that makes this machine another one, and returns the root of its files.

    Its arguments: the system files, the GPU's compute capability, if the GPU is integrated, and TensorRT's version.
    """

    def make(
        files: dict[str, str], capability: str | None = None, tensorrt: str | None = None, integrated: bool = True
    ) -> Path:
        gpu = None if capability is None else Gpu("GPU", capability, 7619, integrated)
        for module in (jetson, targets):
            monkeypatch.setattr(module, "first_gpu", lambda: gpu)
        root = write_board(tmp_path / "root", files)
        root.mkdir(exist_ok=True)
        monkeypatch.setattr(jetson, "ROOT", root)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        if tensorrt is not None:
            package = tmp_path / tensorrt / "tensorrt"
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(f'__version__ = "{tensorrt}"\n')
            monkeypatch.syspath_prepend(package.parent)
        return root

    yield make
    sys.modules.pop("tensorrt", None)
