"""Calibration data for a model: what was given (a folder, a COCO json, arrays) as runs of the model's inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effedge.calibration.ranges.samples import (
    ARRAY_SUFFIXES,
    Input,
    Samples,
    array_samples,
    digest,
    image_samples,
    list_images,
)
from effedge.deploy.common.cli import UserError

if TYPE_CHECKING:
    import onnx_ir as ir

SPEC = "effedge"
METADATA = "effedge_calibration"  # where a prepared ONNX says how it was calibrated


def model_inputs(model: ir.Model) -> list[Input]:
    """Name, dtype and shape of each input. Raises UserError for a type that is no tensor of numbers."""
    inputs = []
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None:
            raise UserError(f"input '{value.name}' has no type or shape: export the model again with them")
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        inputs.append(Input(value.name or "", value.dtype.numpy(), shape))
    return inputs


def source(
    data: Path, images_dir: Path | None, images: int | None
) -> tuple[list[Path] | None, dict[str, Path], dict[str, Any]]:
    """What the data is: (its images, or None for a file of arrays; stage inputs; stage options that digest it)."""
    if data.suffix.lower() in ARRAY_SUFFIXES:
        if not data.is_file():
            raise UserError(f"no calibration data at '{data}': expected a folder of images, a COCO .json, .npz or .npy")
        return None, {"calibration": data}, {"images": images}
    paths = list_images(data, images_dir, images)
    return paths, {}, {"calibration": digest(paths)}


def load_samples(model: ir.Model, data: Path, paths: list[Path] | None, count: int | None) -> Samples:
    """The calibration data for a model: `paths` are its images, or None where `data` holds arrays.

    Raises:
        UserError: as image_samples and array_samples; images for a model without a spec.
    """
    inputs = model_inputs(model)
    if paths is None:
        return array_samples(data, inputs, count)
    if SPEC not in model.metadata_props or len(inputs) != 1:
        names = [given.name for given in inputs]
        raise UserError(
            f"'{data}' holds images, but the model does not say how it wants them: give an .npz with arrays {names}"
        )
    return image_samples(paths, json.loads(model.metadata_props[SPEC]), inputs[0])
