"""Evaluates a backend that lies in no engine's folder, with the device's own pre- and post-processing.

Such backends are compared with an engine: PyTorch, ONNX Runtime, another tool's model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from effedge.deploy.common.contracts import Spec
from effedge.deploy.runtime.backends import Infer
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import Engine
from effedge.deploy.runtime.selection import Selection
from effedge.pipeline.evaluation.evaluate import (
    MAX_DETECTIONS,
    THRESHOLD,
    Evaluation,
    PathModel,
    evaluate,
    of_paths,
)

# Makes a model that shares its images with other processes of a model that does not.
Spread: TypeAlias = "Callable[[PathModel], PathModel]"


def evaluate_backend(
    backend: Infer, name: str, spec: Spec, data: str, *, images: Path | None = None,
    limit: int | None = None, spread: Spread | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluates a backend as `effedge.pipeline.evaluation.evaluate.evaluate_engine` does an engine.

    Args:
        backend: {"image": uint8 [N,H,W,3]} -> the engine's outputs: boxes, scores and classes, or logits.
        name: of the backend in error messages.
        spec: of the engine that it stands for.
        spread: shares the images with other processes.
    """
    kind = BackendDetector if spec["task"] == "detection" else BackendClassifier
    model = of_paths(kind(BackendEngine(backend, name, spec)).stream)
    return evaluate(spread(model) if spread else model, spec, data, images=images, limit=limit)


class BackendEngine(Engine):
    """An engine without a folder, made of a backend and the spec of the engine that it stands for."""

    def __init__(self, backend: Infer, name: str, spec: Spec) -> None:
        self.set_spec(name, spec)
        self.set_backend(backend, 1)


class BackendDetector(Detector):
    """A detector on a BackendEngine, with the settings of an evaluation."""

    def __init__(self, engine: Engine) -> None:
        self.set_engine(engine, Selection(THRESHOLD, max_detections=MAX_DETECTIONS))


class BackendClassifier(Classifier):
    """A classifier on a BackendEngine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
