"""PyTorch's own accuracy, through the device's pre- and post-processing, so that an engine's can be held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effedge.deploy.runtime.backends import Infer
from effedge.pipeline.evaluation.backend import Spread, evaluate_backend

OUTPUTS = {"detection": ("boxes", "scores", "classes"), "classification": ("logits",)}


def evaluate_torch(
    module: nn.Module, spec: dict[str, Any], data: str, *, images: Path | None = None, limit: int | None = None,
    quiet: bool = False, spread: Spread | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a module with an engine's contract, as `effedge.pipeline.evaluation.evaluate.evaluate_engine` does an engine.

    Args:
        module: uint8 [N,H,W,3] -> (boxes, scores, classes), or logits for a classifier.
        spec: of the engine that would be made from it.
        spread: as `evaluate_backend`'s.
    """
    backend = torch_backend(module, spec["task"])
    return evaluate_backend(backend, "the PyTorch model", spec, data, images=images, limit=limit, quiet=quiet,
                            spread=spread)  # fmt: skip


def torch_backend(module: nn.Module, task: str) -> Infer:
    """A module as a backend of deploy."""
    module.eval()
    device = next((each.device for each in module.parameters()), None)  # None: wherever the pictures are

    def infer(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        [batch] = feeds.values()
        with torch.inference_mode():
            outputs = module(torch.from_numpy(batch).to(device))
        values = (outputs,) if isinstance(outputs, Tensor) else outputs
        return {name: value.cpu().numpy() for name, value in zip(OUTPUTS[task], values, strict=True)}

    return infer
