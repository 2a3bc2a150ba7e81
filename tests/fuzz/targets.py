"""The readers of foreign files that are fuzzed by their files' content, and what is asked of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.latency_test import read_baseline
from effedge.deploy.runtime.manifest import NAME, read_manifest
from effedge.engines.onnx_header import onnx_files, read_header
from effedge.engines.preflight import preflight
from effedge.engines.targets import TARGETS as DEVICES
from effedge.engines.traffic import traffic
from effedge.pipeline.datasets.coco import read_coco
from effedge.pipeline.datasets.voc import read_voc
from effedge.pipeline.weights.state_file import read_file

LONGEST_MESSAGE = 1000


def use_onnx(path: Path) -> None:
    header = read_header(path)
    onnx_files(path)
    preflight(header, DEVICES["jetson-orin"])
    traffic(header, typed=True)


def use_voc(path: Path) -> None:
    (path.parent / "Annotations").mkdir(exist_ok=True)
    path.replace(path.parent / "Annotations" / "a.xml")
    read_voc(path.parent)


# The name of the file that the reader is given, and the reader.
TARGETS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "images": ("a.png", open_image),
    "onnx-headers": ("a.onnx", use_onnx),
    "manifests": (NAME, lambda path: read_manifest(path.parent)),
    "safetensors": ("a.safetensors", read_file),
    "checkpoints": ("a.pth", read_file),
    "coco": ("a.json", read_coco),
    "voc": ("a.xml", use_voc),
    "baselines": ("a.json", read_baseline),
}


def run_one(target: str, folder: Path, content: bytes) -> None:
    """Hands a file of this content to the target's reader; a UserError of one line is all that it may raise."""
    name, reader = TARGETS[target]
    path = folder / name
    path.write_bytes(content)
    try:
        reader(path)
    except UserError as error:
        text = str(error)
        assert text and len(text) < LONGEST_MESSAGE and "\n" not in text, json.dumps(text)
