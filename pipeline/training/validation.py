"""Validates the averaged weights: COCO AP or top-1, through the device's own pre- and post-processing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from effedge.deploy.common.contracts import Spec
from effedge.deploy.common.messages import log
from effedge.pipeline.datasets.checks import LEAVE_OUT, REFUSE, check_data
from effedge.pipeline.datasets.digits_cache import digits_data
from effedge.pipeline.datasets.records import match_labels
from effedge.pipeline.evaluation.backend import Spread
from effedge.pipeline.evaluation.pytorch import evaluate_torch
from effedge.pipeline.export.onnx_spec import make_spec
from effedge.pipeline.models.efficientdet import EfficientDet
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.engine_graph import ClassifierGraph, DetectorGraph
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.data.sources import DIGITS
from effedge.pipeline.weights.published import Preprocessing

DIGITS_COUNT = {"detection": 100, "classification": 500}
FIGURE = {"detection": "AP", "classification": "top-1"}
BATCH = (1, 8, 8)


class Validation(NamedTuple):
    """Validation data, and the spec of the engine that would be made of the weights."""

    data: str
    images: Path | None
    spec: Spec
    preprocessing: Preprocessing
    spread: Spread | None = None

    @property
    def figure(self) -> str:
        """Names the figure that is compared: "AP" or "top-1"."""
        return FIGURE[self.spec["task"]]

    def __call__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, float | None]:
        """Measures all figures, 0..1, of `weights` in a copy of `model`; None for a figure that the data cannot give.

        Neither the model nor PyTorch's generator is changed, so that the training goes on as if it had not happened.
        """
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(dict(weights))
        device, on_cpu = next(model.parameters()).device, averaged.cpu()
        mean, std = self.preprocessing.mean, self.preprocessing.std
        graph: ClassifierGraph | DetectorGraph
        if isinstance(on_cpu, EfficientDet):
            graph = DetectorGraph(on_cpu, mean, std, Size(*self.spec["input"]["size"]))
        else:
            assert isinstance(on_cpu, EfficientNet)
            graph = ClassifierGraph(on_cpu, mean, std)
        result = evaluate_torch(graph.to(device), self.spec, self.data, images=self.images,
                                spread=self.spread)  # fmt: skip
        return result["figures"]


def make_validation(
    model: str, data: str, images: Path | None, labels: list[str | None], size: Size, preprocessing: Preprocessing,
    unreadable: str = REFUSE,
) -> Validation:  # fmt: skip
    """Reads and checks the validation data, `digits` or a path, before hours are spent.

    `unreadable` is that of `check_data`.

    Raises UserError as `check_data`, or if the data has no class in common with `labels`.
    """
    spec = make_spec(model, "training", labels, size, BATCH, preprocessing)
    if data == DIGITS:
        data, images = str(digits_data(spec, DIGITS_COUNT[spec["task"]])), None
    checked = check_data(data, images, model, unreadable)
    for note in checked.notes if unreadable == LEAVE_OUT else ():
        log.info(f"warning: validation: {note}")
    match_labels(checked.data.labels, labels)
    return Validation(data, images, spec, preprocessing)
