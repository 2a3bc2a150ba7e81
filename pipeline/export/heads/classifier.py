"""Makes a classifier of effedge of another project's ONNX: images in, logits out.

The image is resized and cropped to the central 0.875 of its shorter side, as torchvision and most of timm do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CENTER_CROP, Spec
from effedge.pipeline.export.heads.builder import Builder, free_names
from effedge.pipeline.export.heads.image_input import IMAGE, add_image_input, batch_bounds
from effedge.pipeline.export.heads.table import CLASSIFIERS
from effedge.pipeline.weights.class_names import imagenet_labels, read_labels, stated_names

if TYPE_CHECKING:
    import onnx_ir as ir

    from effedge.pipeline.export.torch_to_onnx import Batch

LOGITS = "logits"
CROP = 0.875
IMAGENET_CLASSES = 1000
LEAST_PROBABILITY = 1e-30
CLOSE = 1e-3  # to 1, of the sum of probabilities


def attach_classifier(
    model: ir.Model, name: str, labels: Path | None, arrays: Mapping[str, np.ndarray], batch: Batch, source: Path
) -> Spec:
    """Makes a classifier of a network, in place; returns its spec. Arguments and errors as
    `effedge.pipeline.export.heads.attach.attach_detector`."""
    [output, *others] = arrays.values()
    shape = output.shape
    if others or len(shape) < 2 or shape[1] < 2 or output.size != shape[0] * shape[1]:
        shapes = ", ".join(str(list(array.shape)) for array in arrays.values())
        raise UserError(f"'{source}' has outputs of shape {shapes}: a classifier's (--head {name}) is one, [N,classes]")
    names = read_names(labels, dict(model.metadata_props), source, shape[1])
    free_names(model, {IMAGE, LOGITS})
    height, width = add_image_input(model, CLASSIFIERS[name], source)
    add_logits(model, output)
    return {
        "model": source.stem,
        "weights": name,
        "task": "classification",
        "labels": names,
        "input": {
            "size": [height, width],
            "batch": batch_bounds(model, batch),
            "resize": CENTER_CROP,
            "crop": CROP,
            "interpolation": "bilinear",
        },
    }


def read_names(labels: Path | None, metadata: dict[str, str], source: Path, classes: int) -> list[str | None]:
    """Reads the classes' names of a file, or those in the metadata; without either, a thousand are ImageNet's.

    Raises:
        UserError: there are none, or not as many as classes.
    """
    names = read_labels(labels) if labels is not None else stated_names(metadata)
    if names is None and classes == IMAGENET_CLASSES:
        names = imagenet_labels()
    if names is None:
        raise UserError(
            f"'{source}' does not say what its {classes} classes are: give a file with a name a line, LABELS (--labels)"
        )
    if len(names) != classes:
        given = f"'{labels}' (--labels)" if labels is not None else "its metadata"
        raise UserError(f"'{source}' has {classes} classes, and {given} {len(names)} names: expected as many")
    return names


def add_logits(model: ir.Model, output: np.ndarray) -> None:
    """Replaces the output by logits [N,C] in float32, in place. Of probabilities these are the logarithms.

    Args:
        output: of a run.
    """
    import onnx_ir as ir

    builder = Builder("postprocessing", model.opset_imports[""])
    value = model.graph.outputs[0]
    last = value.producer()
    if last is not None and last.op_type == "Softmax" and last.inputs[0] is not None and are_probabilities(output):
        value = last.inputs[0]
    elif are_probabilities(output):
        least = builder.constant(np.array(LEAST_PROBABILITY, np.float32))
        value = builder.op("Log", builder.op("Clip", builder.op("Cast", value, to=ir.DataType.FLOAT), least))
    if output.ndim > 2:
        value = builder.op("Flatten", value, axis=1)
    logits = builder.op("Cast", value, to=ir.DataType.FLOAT)
    logits.name, logits.type = LOGITS, ir.TensorType(ir.DataType.FLOAT)
    logits.shape = ir.Shape([model.graph.inputs[0].shape[0], output.shape[1]])  # type: ignore[index]
    builder.insert(model.graph)
    model.graph.outputs[:] = [logits]


def are_probabilities(output: np.ndarray) -> bool:
    """Tells if the outputs [N,C,...] of each image are probabilities, whose sum is 1."""
    return bool(output.min() >= 0 and np.abs(output.astype(np.float64).sum(axis=1) - 1).max() <= CLOSE)
