"""Evaluates models that are in no engine's folder, on OpenVINO or ONNX Runtime, through the device's own code."""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.contracts import Manifest
from effedge.pipeline.evaluation.evaluate import Evaluation


def evaluate_file(path: Path, manifest: Manifest, data: str, *, limit: int | None) -> Evaluation:
    """Evaluates an .xml on OpenVINO or an .onnx on ONNX Runtime, both on the CPU.

    Arguments and result as those of `effedge.pipeline.evaluation.backend.evaluate_backend`, and:

    Args:
        manifest: of the OpenVINO engine in the same folder, whose spec is that of this model too; an .xml runs with its
            settings, but all on OpenVINO.
    """
    from effedge.deploy.runtime import onnxruntime_backend, openvino_backend
    from effedge.pipeline.evaluation.backend import evaluate_backend

    if path.suffix == ".xml":
        settings = manifest["backend"].copy()
        settings.pop("cpu_blocks", None)
        backend = openvino_backend.load(path, {"backend": settings})
    else:
        backend = onnxruntime_backend.load(path, manifest)
    return evaluate_backend(backend, str(path), manifest["spec"], data, limit=limit)
