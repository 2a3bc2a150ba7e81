"""Makes a model by effedge's contract of another project's ONNX: uint8 images in, a detector's candidates or a
classifier's logits (classifier.py) out.

The network stays as it is, between a graph that makes its input of the image and one that decodes its output
(`--head`). The spec in the metadata says the rest, so calibration on images, accuracy, NMS and the runtime are those of
effedge's own exports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import LETTERBOX, SPEC_KEY, STRETCH, InputSpec, Spec
from effedge.deploy.common.messages import log
from effedge.engines.onnx_header import Header, onnx_files
from effedge.engines.stage import run_stage
from effedge.pipeline.export.foreign_model import read_foreign
from effedge.pipeline.export.heads.classifier import IMAGENET_CLASSES, attach_classifier
from effedge.pipeline.export.heads.image_input import IMAGE, add_image_input, batch_bounds
from effedge.pipeline.export.heads.table import (
    ALL_HEADS,
    ANCHORS_PER_CELL,
    CLASSIFIERS,
    CORNERS,
    DELTAS,
    HEADS,
    Head,
    likely_head,
)
from effedge.pipeline.export.input_size import image_size
from effedge.pipeline.export.simplify import TOOLS
from effedge.pipeline.models.tables import Size
from effedge.pipeline.weights.class_names import read_labels, stated_names

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from effedge.pipeline.export.torch_to_onnx import Batch


def attach_head(source: Path, name: str, labels: Path | None, batch: Batch, size: Size | None = None) -> ir.Model:
    """Makes the detector or classifier of an ONNX file.

    Args:
        name: of the head, a row of ALL_HEADS.
        labels: a file with a class name a line; None: the names that Ultralytics' exporter writes into the file.
        batch: (min, opt, max) of a model whose own batch is a symbol.
        size: of a model whose own height and width are symbols.

    Raises:
        UserError: as `effedge.pipeline.export.foreign_model.read_foreign`; the model's input, outputs or number of
            classes are not those of the head, or nothing says the classes' names.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    from effedge.pipeline.export.onnx_spec import spec_text

    model, trial = read_foreign(source, batch, None, size)
    arrays = trial.run(ir.to_proto(model), source)
    attach = attach_classifier if name in CLASSIFIERS else attach_detector
    spec = attach(model, name, labels, arrays, batch, source)
    common.RemoveUnusedNodesPass()(model)
    model.metadata_props.clear()
    model.metadata_props[SPEC_KEY] = spec_text(spec)
    return model


def attach_detector(
    model: ir.Model, name: str, labels: Path | None, arrays: Mapping[str, np.ndarray], batch: Batch, source: Path
) -> Spec:
    """Makes a detector of a network, in place; returns its spec. Arguments and errors as `attach_head`.

    Args:
        arrays: the outputs of a run, by the names that the file has for them.
    """
    from effedge.pipeline.export.heads.builder import free_names
    from effedge.pipeline.export.heads.candidates import OUTPUTS, add_candidates

    head = HEADS[name]
    names = read_names(labels, dict(model.metadata_props), source, head, [array.shape for array in arrays.values()])
    free_names(model, {IMAGE, *OUTPUTS})
    input_size = add_image_input(model, head, source)
    add_candidates(model, head, len(names), input_size, arrays, source)
    spec = make_head_spec(source.stem, name, names, input_size, batch_bounds(model, batch))
    spec["candidates"] = int(model.graph.outputs[1].shape[1])  # type: ignore[arg-type, index]
    return spec


def make_head_spec(
    model: str, name: str, labels: Sequence[str | None], size: tuple[int, int], batch: Sequence[int]
) -> Spec:
    """Makes the spec of a detector with this head; see `effedge.pipeline.export.onnx_spec`."""
    head = HEADS[name]
    image: InputSpec = {"size": list(size), "batch": list(batch), "interpolation": "bilinear"}
    if head.stretches:
        image["resize"] = STRETCH
    else:
        image["resize"], image["fill"] = LETTERBOX, list(head.fill)
    return {
        "model": model,
        "weights": name,
        "task": "detection",
        "labels": list(labels),
        "iou": head.iou,
        "input": image,
    }


def read_names(
    labels: Path | None, metadata: dict[str, str], source: Path, head: Head, shapes: Sequence[Sequence[int]]
) -> list[str | None]:
    """Reads the classes' names of a file, or those in the metadata, as {0: 'person', ...}, or takes the head's own.

    Empty lines, which are class ids without a class, are dropped where the model's output has no column for them. A
    first line for the background is none of a class's.

    Args:
        shapes: of the model's outputs.

    Raises:
        UserError: there are neither, or the file has none.
    """
    if labels is not None:
        names = read_labels(labels)
        while names and names[-1] is None:
            names.pop()
        if head.boxes == DELTAS and names and (names[0] or "background").strip("_").lower() == "background":
            names = names[1:]
        named: list[str | None] = [name for name in names if name is not None]
        if not named:
            raise UserError(f"'{labels}' (--labels) has no names: expected a class name a line")
        return names if head.boxes == CORNERS or is_width(shapes, head, len(names)) else named
    stated = stated_names(metadata)
    if stated is not None:
        return stated
    if head.labels:
        return list(head.labels)
    raise UserError(f"'{source}' does not say what its classes are: give a file with a name a line, LABELS (--labels)")


def is_width(shapes: Sequence[Sequence[int]], head: Head, classes: int) -> bool:
    """Tells if an output has the columns of so many classes, or the channels of a RetinaNet with so many."""
    widths = head.score_columns(classes) if head.apart else (head.columns(classes), *head.score_columns(classes))
    columns = {columns for shape in shapes for columns in shape[1:] if len(shape) < 4}
    channels = {shape[1] for shape in shapes if len(shape) == 4}
    return any(width in columns or ANCHORS_PER_CELL * width in channels for width in widths)


def attach_stage(
    source: Path, artefact: Path, name: str, labels: Path | None, batch: Batch, size: Size | None = None
) -> bool:
    """Runs `attach_head` as a stage that writes `artefact`; see `effedge.engines.stage.run_stage`."""

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file

        onnx_file.save(attach_head(source, name, labels, batch, size), temporary)
        head = ALL_HEADS[name]
        log.info(f"head: {name}, {head.models}{place_note(head) if isinstance(head, Head) else ''}")

    return run_stage(
        "head",
        artefact,
        inputs={**onnx_files(source), **({} if labels is None else {"labels": labels})},
        options={"head": name, "batch": batch, "size": size, "model": source.stem},
        tools=(*TOOLS, "numpy"),
        code=[__name__],
        make=make,
    )


def place_note(head: Head) -> str:
    """Returns the words that say how effedge's letterbox differs from the project's."""
    return f"; images are placed top-left, where the project {head.otherwise} them" if head.otherwise else ""


def header_with_head(header: Header, path: Path, name: str | None) -> Header:
    """Returns the header of the model that a file becomes with its head; without one, the file's own, with a note.

    Raises:
        UserError: a head for a file that is effedge's own export.
    """
    if name is None:
        note_likely_head(header, path)
        return header
    if header.spec:
        raise UserError(f"'{path}' is effedge's own export, with a head of its own: leave HEAD (--head) out")
    return dataclasses.replace(header, spec={"task": "classification" if name in CLASSIFIERS else "detection"})


def note_likely_head(header: Header, path: Path) -> None:
    """Says in one line if a model without `--head` looks like one of the table; nothing is built otherwise for it."""
    shapes = [dims for _, dims in header.inputs.values()]
    size = image_size(shapes[0]) if len(shapes) == 1 else None
    if header.spec or size is None:
        return
    outputs = {name: dims for name, (_, dims) in header.outputs.items()}
    name = likely_head(size[:2], outputs, set(header.initializers))
    if name is not None:
        log.info(f"note: '{path}' looks like {HEADS[name].models}: with --head {name} (HEAD) it becomes a detector")
    elif [shape and shape[1:] for shape in outputs.values()] == [(IMAGENET_CLASSES,)]:
        heads = ", ".join(CLASSIFIERS)
        log.info(f"note: '{path}' looks like a classifier: with --head (HEAD), one of {heads}, it takes images")
