"""Models that are in no engine's folder, on OpenVINO or ONNX Runtime, through the device's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effedge.deploy.runtime.backends import Infer


def evaluate_file(path: Path, manifest: dict[str, Any], data: str, *, limit: int | None, quiet: bool) -> dict[str, Any]:
    """Evaluate an .xml on OpenVINO or an .onnx on ONNX Runtime, both on the CPU.

    Args:
        manifest: of the OpenVINO engine that it stands beside: its spec holds for this model too, and an .xml runs
            with its settings. The rest, and what is returned, as for `effedge.pipeline.evaluation.backend.evaluate_backend`.
    """
    from effedge.deploy.runtime import openvino_backend
    from effedge.pipeline.evaluation.backend import evaluate_backend

    backend = (
        openvino_backend.load(path, {"backend": manifest["backend"]}) if path.suffix == ".xml" else onnx_runtime(path)
    )
    return evaluate_backend(backend, str(path), manifest["spec"], data, limit=limit, quiet=quiet)


def onnx_runtime(path: Path) -> Infer:
    """The model on ONNX Runtime's CPU provider."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def infer(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, feeds), strict=True))

    return infer
