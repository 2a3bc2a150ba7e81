"""How good the averaged weights are: COCO AP or top-1, through the device's own pre- and post-processing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from effedge.pipeline.datasets.checks import check_data
from effedge.pipeline.datasets.digits_cache import digits_folder
from effedge.pipeline.datasets.records import match_labels
from effedge.pipeline.evaluation.backend import Spread
from effedge.pipeline.evaluation.pytorch import evaluate_torch
from effedge.pipeline.export.onnx_spec import make_spec
from effedge.pipeline.models.efficientdet import EfficientDet
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.engine_graph import ClassifierGraph, DetectorGraph
from effedge.pipeline.models.zoo import is_detector
from effedge.pipeline.training.data.sources import DIGITS
from effedge.pipeline.weights.published import Preprocessing

DIGITS_COUNT = {"detection": 100, "classification": 500}
FIGURE = {"detection": "AP", "classification": "top-1"}
BATCH = (1, 8, 8)


class Validation(NamedTuple):
    """Annotated pictures and the spec of the engine that would be made of the weights."""

    data: str
    images: Path | None
    spec: dict[str, Any]
    look: Preprocessing
    quiet: bool
    spread: Spread | None = None

    @property
    def figure(self) -> str:
        """What is measured: "AP" or "top-1"."""
        return FIGURE[self.spec["task"]]

    def __call__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, float | None]:
        """All figures, 0..1, of `weights` in a copy of `model`; None for one that the data has nothing to measure by.

        Neither the model nor PyTorch's generator is changed, so that training goes on as if nothing had been.
        """
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(dict(weights))
        device, cpu = next(model.parameters()).device, averaged.cpu()
        graph: ClassifierGraph | DetectorGraph
        if isinstance(cpu, EfficientDet):
            graph = DetectorGraph(cpu, self.look.mean, self.look.std, self.spec["input"]["size"][0])
        else:
            assert isinstance(cpu, EfficientNet)
            graph = ClassifierGraph(cpu, self.look.mean, self.look.std)
        result = evaluate_torch(graph.to(device), self.spec, self.data, images=self.images, quiet=self.quiet,
                                spread=self.spread)  # fmt: skip
        return result["figures"]


def make_validation(
    model: str, data: str, images: Path | None, labels: list[str | None], size: int, look: Preprocessing, quiet: bool,
    spread: Spread | None = None,
) -> Validation:  # fmt: skip
    """Read and check the validation data, `digits` or a path, before hours are spent; UserError as `check_data`, or if
    it has no class in common with `labels`."""
    spec = make_spec(model, "training", labels, size, BATCH, look)
    if data == DIGITS:
        task = spec["task"]
        folder = digits_folder(task, "val", size=size, count=DIGITS_COUNT[task], quiet=quiet)
        data, images = str(folder / "instances.json" if is_detector(model) else folder), None
    match_labels(check_data(data, images, quiet, model).data.labels, labels)
    return Validation(data, images, spec, look, quiet, spread)
