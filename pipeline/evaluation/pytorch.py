"""Evaluates a PyTorch module with the device's pre- and post-processing, to compare an engine's accuracy with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effedge.deploy.common.contracts import Spec
from effedge.deploy.runtime.backends import Infer
from effedge.pipeline.evaluation.backend import Spread, evaluate_backend
from effedge.pipeline.evaluation.evaluate import Evaluation

OUTPUTS = {"detection": ("boxes", "scores", "classes"), "classification": ("logits",)}


def evaluate_torch(
    module: nn.Module, spec: Spec, data: str, *, images: Path | None = None, limit: int | None = None,
    spread: Spread | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluates a module as `effedge.pipeline.evaluation.evaluate.evaluate_engine` does an engine.

    Args:
        module: uint8 [N,H,W,3] -> (boxes, scores, classes), or logits for a classifier.
        spec: of the engine that would be made from it.
        spread: as `evaluate_backend`'s.
    """
    backend = torch_backend(module, spec["task"])
    return evaluate_backend(backend, "the PyTorch model", spec, data, images=images, limit=limit, spread=spread)


def torch_backend(module: nn.Module, task: str) -> Infer:
    """Makes a backend of effedge.deploy of a module; it runs on the device of the module's parameters."""
    module.eval()
    device = next((parameter.device for parameter in module.parameters()), None)  # None: the CPU, where images are

    def infer(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        [images] = feeds.values()
        with torch.inference_mode():
            outputs = module(torch.from_numpy(images).to(device))
        values = (outputs,) if isinstance(outputs, Tensor) else outputs
        return {name: value.cpu().numpy() for name, value in zip(OUTPUTS[task], values, strict=True)}

    return infer
