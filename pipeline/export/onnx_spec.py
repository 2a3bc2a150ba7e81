"""What the ONNX says of itself: the spec in its metadata, by which calibration, builder and runtime know the model."""

from __future__ import annotations

import json
from typing import Any

from effedge.pipeline.models.engine_graph import CANDIDATES
from effedge.pipeline.models.zoo import is_detector
from effedge.pipeline.weights.published import Preprocessing

METADATA_KEY = "effedge"


def make_spec(
    model: str,
    weights: str,
    labels: list[str | None],
    size: int,
    batch: tuple[int, int, int],
    preprocessing: Preprocessing,
) -> dict[str, Any]:
    """The spec of a prepared ONNX, as the design lays it down."""
    picture: dict[str, Any] = {"size": [size, size], "batch": list(batch), "interpolation": preprocessing.interpolation}
    spec: dict[str, Any] = {"model": model, "weights": weights, "labels": labels, "input": picture}
    if is_detector(model):
        spec["task"], spec["candidates"] = "detection", CANDIDATES
        picture["resize"], picture["fill"] = "letterbox", list(preprocessing.fill)
    else:
        spec["task"] = "classification"
        picture["resize"], picture["crop"] = "center-crop", preprocessing.crop
    return spec


def spec_text(spec: dict[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)
