"""Makes the spec in an ONNX file's metadata, from which calibration, builder and runtime know the model."""

from __future__ import annotations

import json

from effedge.deploy.common.contracts import InputSpec, Spec
from effedge.pipeline.models.engine_graph import CANDIDATES
from effedge.pipeline.models.tables import Size, is_detector
from effedge.pipeline.weights.published import Preprocessing


def make_spec(
    model: str,
    weights: str,
    labels: list[str | None],
    size: Size,
    batch: tuple[int, int, int],
    preprocessing: Preprocessing,
) -> Spec:
    """Makes the spec of a model: name, weights, task, labels, and its input's size, batch and preprocessing."""
    image: InputSpec = {"size": list(size), "batch": list(batch), **preprocessing.input_spec()}
    spec: Spec = {"model": model, "weights": weights, "labels": labels, "input": image}
    if is_detector(model):
        spec["task"], spec["candidates"] = "detection", CANDIDATES
    else:
        spec["task"] = "classification"
    return spec


def spec_text(spec: Spec) -> str:
    """Writes the spec as the text of the metadata."""
    return json.dumps(spec, sort_keys=True)
