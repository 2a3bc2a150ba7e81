"""The accuracy of a backend that is here already, in no engine's folder, through the device's own code before and
behind it: for what an engine is held against (PyTorch, ONNX Runtime, another tool's model)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from effedge.deploy.runtime.backends import Infer
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import Engine
from effedge.pipeline.evaluation.evaluate import MAX_DETECTIONS, THRESHOLD, evaluate

Spread = Callable[[Callable[[Iterable[Path]], Iterable[Any]]], Callable[[Iterable[Path]], Iterator[Any]]]


def evaluate_backend(
    backend: Infer, name: str, spec: dict[str, Any], data: str, *, images: Path | None = None,
    limit: int | None = None, quiet: bool = False, spread: Spread | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a backend as `effedge.pipeline.evaluation.evaluate.evaluate_engine` does an engine.

    Args:
        backend: {"image": uint8 [N,H,W,3]} -> the engine's outputs: boxes, scores and classes, or logits.
        name: what errors call it.
        spec: of the engine that it stands for.
        spread: makes a function of pictures out of one, that has other processes do a share of them.
    """
    kind = BackendDetector if spec["task"] == "detection" else BackendClassifier
    model: Any = kind(BackendEngine(backend, name, spec))
    return evaluate(spread(model) if spread else model, spec, data, images=images, limit=limit, quiet=quiet)


class BackendEngine(Engine):
    def __init__(self, backend: Infer, name: str, spec: dict[str, Any]) -> None:
        self.take_spec(name, spec)
        self.take_backend(backend, 1)


class BackendDetector(Detector):
    def __init__(self, engine: Engine) -> None:
        self.take_engine(engine, THRESHOLD, iou=0.5, max_detections=MAX_DETECTIONS)


class BackendClassifier(Classifier):
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
