"""PyTorch's own accuracy, through the device's pre- and post-processing, so that an engine's can be held against it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy.backends import Backend
from deploy.classifier import Classifier
from deploy.detector import Detector
from deploy.engine import Engine
from deploy.nms import nms
from pipeline.evaluate import MAX_DETECTIONS, THRESHOLD, evaluate

OUTPUTS = {"detection": ("boxes", "scores", "classes"), "classification": ("logits",)}


def evaluate_torch(
    module: nn.Module, spec: dict[str, Any], data: str, *, images: Path | None = None, limit: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a module with an engine's contract, as `pipeline.evaluate.evaluate_engine` does an engine.

    Args:
        module: uint8 [N,H,W,3] -> (boxes, scores, classes), or logits for a classifier.
        spec: of the engine that would be made from it.
    """
    model = TorchDetector(module, spec) if spec["task"] == "detection" else TorchClassifier(module, spec)
    return evaluate(model, spec, data, images=images, limit=limit, quiet=quiet)


def torch_backend(module: nn.Module, task: str) -> Backend:
    """A module as a backend of deploy."""
    module.eval()

    def infer(batch: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(batch))
        values = (outputs,) if isinstance(outputs, Tensor) else outputs
        return {name: value.numpy() for name, value in zip(OUTPUTS[task], values, strict=True)}

    return infer


class TorchEngine(Engine):
    """deploy's Engine around a backend that is here already, instead of an engine folder's."""

    def __init__(self, backend: Backend, spec: dict[str, Any]) -> None:
        self.take_spec("the PyTorch model", spec)
        self.backend = backend


class TorchDetector(Detector):
    def __init__(self, module: nn.Module, spec: dict[str, Any]) -> None:
        self.engine = TorchEngine(torch_backend(module, spec["task"]), spec)
        self.suppress = partial(nms, threshold=THRESHOLD, iou=0.5, max_detections=MAX_DETECTIONS)


class TorchClassifier(Classifier):
    def __init__(self, module: nn.Module, spec: dict[str, Any]) -> None:
        self.engine = TorchEngine(torch_backend(module, spec["task"]), spec)
