"""Makes small bundles for simulated boards: a classifier of 32 classes with INT8 convolutions, or in 16 bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.pipeline.shipping import bundle
from tests.engines import graphs


def small_bundle(folder: Path, target: str, precision: str = "int8", **options: Any) -> Path:
    """Packs a bundle; those of the same folder's name and precision have one name on a board."""
    folder.mkdir(parents=True, exist_ok=True)
    if precision == "fp16":
        options["fp16"] = TARGETS[target].precision_by == "typed"
    onnx = graphs.network(folder / "model.onnx", quantized=precision == "int8", opset=17, **options)
    return quick_bundle(onnx, target, precision)


def quick_bundle(onnx: Path, target: str, precision: str, **more: Any) -> Path:
    """Packs the bundle of an ONNX, whose install.sh times three runs in place of twenty seconds of them; `more`: fields
    of the BuildRequest."""
    installer = onnx.with_name("install.sh")
    before, last = bundle.INSTALL.read_text().rsplit("exec ", 1)
    installer.write_text(f'{before}set -- --iterations 3 "$@"\nexec {last}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "INSTALL", installer)
        return bundle.bundle_stage(BuildRequest(onnx, read_header(onnx), precision, TARGETS[target], **more))
