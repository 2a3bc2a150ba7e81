"""Reads calibration data for a model: a folder, a COCO json or arrays become runs of the model's inputs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from effedge.calibration.ranges.samples import (
    ARRAY_SUFFIXES,
    Input,
    Samples,
    array_samples,
    image_samples,
    list_images,
)
from effedge.calibration.ranges.usable_images import usable_images
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import SPEC_KEY
from effedge.deploy.common.files import sha256_of_files

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_IMAGES = 128  # of a calibration


class CalibrationData(NamedTuple):
    """The files of calibration data, as a stage needs them.

    images: the image files; None for a file of arrays.
    stage_inputs, stage_options: for `run_stage`; the content of images counts by a digest in the options.
    """

    images: list[Path] | None
    stage_inputs: dict[str, Path]
    stage_options: dict[str, object]


def add_data(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds the options of a command that reads calibration data: --calibration, --images-dir and --images."""
    data = ".npz, .npy, folder or COCO json"
    parser.add_argument("--calibration", type=Path, required=required, metavar="DATA", help=data)
    parser.add_argument("--images-dir", type=Path, metavar="DIR", help="where the images of a COCO json lie")
    parser.add_argument("--images", type=int, default=DEFAULT_IMAGES, metavar="N", help="how many (%(default)s)")


def find_data(data: Path, images_dir: Path | None, count: int | None) -> CalibrationData:
    """Finds the files of calibration data, without reading arrays or decoding images.

    Args:
        data: a folder of images, a COCO json, an .npz or .npy.
        images_dir, count: as of `list_images`.

    Raises:
        UserError: as `list_images`; no file of arrays at `data`.
    """
    if data.suffix.lower() in ARRAY_SUFFIXES:
        if not data.is_file():
            raise UserError(f"no calibration data at '{data}': expected a folder of images, a COCO .json, .npz or .npy")
        return CalibrationData(None, {"calibration": data}, {"images": count})
    images = list_images(data, images_dir, count)
    return CalibrationData(images, {}, {"calibration": sha256_of_files(images)})


def model_inputs(model: ir.Model) -> list[Input]:
    """Returns name, dtype and shape of each input. Raises UserError for an input that is no tensor of numbers."""
    inputs = []
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None:
            raise UserError(f"input '{value.name}' has no type or shape: export the model again with them")
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        inputs.append(Input(value.name or "", value.dtype.numpy(), shape))
    return inputs


def load_samples(model: ir.Model, data: Path, images: list[Path] | None, count: int | None) -> Samples:
    """Returns the calibration data as runs of a model.

    Args:
        images: the image files of `data`, or None where `data` holds arrays.
        count: of arrays, the number of samples to take; None takes all.

    Raises:
        UserError: as usable_images and array_samples; images for a model without a spec.
    """
    inputs = model_inputs(model)
    if images is None:
        return array_samples(data, inputs, count)
    if SPEC_KEY not in model.metadata_props or len(inputs) != 1:
        names = [model_input.name for model_input in inputs]
        raise UserError(
            f"'{data}' holds images, but the model does not say how it wants them: give an .npz with arrays {names}"
        )
    return image_samples(usable_images(images, data), json.loads(model.metadata_props[SPEC_KEY]), inputs[0])
