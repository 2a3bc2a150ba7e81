"""Measures the accuracy of an ONNX model in memory on labelled images, for the limit `make engine MAX_DROP=...`.

The model becomes a CPU engine in a temporary folder and runs there with the device's own pre- and post-processing, so
the figure is that of `make evaluate` on the same images: COCO's AP 50:95 of a detector, top-1 of a classifier.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.calibration.ranges.samples import spread
from effedge.calibration.settings import Budget
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Spec
from effedge.deploy.common.files import sha256_of_files
from effedge.deploy.common.messages import track
from effedge.engines.stage import tool_versions
from effedge.pipeline.datasets.labelled import model_class_ids, read_for_task, without_unreadable
from effedge.pipeline.datasets.records import DataSet, annotations_digest, match_labels

if TYPE_CHECKING:
    import onnx_ir as ir

    from effedge.pipeline.evaluation.evaluate import Model

IMAGES = 300
FIGURE = {"detection": "AP", "classification": "top-1"}
DIGITS = "digits"


def read_labelled(validation: str | None, digits: Path | None, task: str) -> DataSet:
    """Reads at most IMAGES labelled images to measure a model on, evenly spread over the data.

    Args:
        validation: a path for `effedge.pipeline.datasets.read`, or `digits`, the default for a model that knows them.
        digits: the drawn digits' calibration images, which have labels too, so that the validation images stay unseen;
            None where the model does not know them.
        task: of the model.

    Raises:
        UserError: `validation` is needed, does not exist, or is for another task.
    """
    if validation in (None, DIGITS):
        if digits is None:
            raise UserError(
                "MAX_DROP (--max-drop) needs labelled images of what the model knows: give them with VALIDATION "
                "(--validation), a COCO json, a Pascal VOC folder, a folder of folders or a .tsv"
            )
        # For a detector, `digits` is the folder of the images, and their COCO json lies beside it.
        path = digits.with_name("instances.json") if task == "detection" else digits
    else:
        path = Path(str(validation))
    data = read_for_task(task, path)
    return data._replace(records=spread(data.records, IMAGES))


@dataclass(frozen=True)
class AccuracyLimit:
    """The accuracy that INT8 may lose: `max_drop` points of AP or top-1.

    Attributes:
        validation: the labelled images that it is measured on, a path or `digits`; None: those that the weights bring.

    Raises UserError for a drop that is none.
    """

    max_drop: float
    validation: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise UserError(f"MAX_DROP {self.max_drop:g} (--max-drop): expected 0 to 100 points of AP or top-1")


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Adds the options --max-drop and --validation."""
    parser.add_argument("--max-drop", type=float, metavar="X", help="points of AP or top-1 that INT8 may lose")
    parser.add_argument("--validation", metavar="DATA", help="labelled images for --max-drop, as effedge evaluate's")


def read_limit(arguments: argparse.Namespace) -> AccuracyLimit | None:
    """Reads the options that `add_limit` added; UserError for --validation without --max-drop."""
    if arguments.max_drop is not None:
        return AccuracyLimit(arguments.max_drop, arguments.validation)
    if arguments.validation is not None:
        raise UserError(
            f"VALIDATION '{arguments.validation}' (--validation) is for MAX_DROP (--max-drop): give that too"
        )
    return None


def drop_budget(limit: AccuracyLimit, data: DataSet, spec: Spec) -> Budget:
    """Makes the accuracy budget of a model with this spec, for `effedge.calibration.quantize.calibrate`.

    Raises:
        UserError: data of classes that the model does not have.
    """
    model_class_ids(data, spec["labels"])
    unit = f"points of {FIGURE[data.task]}"
    images = sha256_of_files(record.path for record in data.records)
    record = {"validation": (images, annotations_digest(data)), **tool_versions(["openvino", "pillow"])}
    usable = functools.cache(lambda: without_unreadable(data))  # only once the stage runs

    def points(model: ir.Model) -> float:
        return accuracy(model, data=usable())

    return Budget(limit.max_drop, points, unit, tuple(record.items()), (__name__,))


def accuracy(model: ir.Model, *, data: DataSet) -> float:
    """Measures a float or INT8 model on the data, in points of AP or top-1 (0..100).

    Raises:
        UserError: OpenVINO refuses the model, an image cannot be read, or the data has no object that counts.
    """
    import openvino

    from effedge.calibration.graph import onnx_file
    from effedge.deploy.runtime import openvino_backend
    from effedge.engines.build_request import BuildRequest
    from effedge.engines.onnx_header import read_header
    from effedge.engines.openvino import builder
    from effedge.engines.targets import TARGETS
    from effedge.pipeline.evaluation.backend import BackendClassifier, BackendDetector, BackendEngine
    from effedge.pipeline.evaluation.evaluate import scores_of

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx = folder / "model.onnx"
        onnx_file.save(model, onnx)
        header = read_header(onnx)
        built = builder.build(openvino, BuildRequest(onnx, header, "fp32", TARGETS["cpu"]), folder)
        backend = openvino_backend.load(folder / built.engine, {"backend": built.backend})
    engine = BackendEngine(backend, "the model that is tried", header.spec)
    model_of_task = BackendDetector(engine) if data.task == "detection" else BackendClassifier(engine)
    run: Model = model_of_task.stream
    paths = [record.path for record in data.records]
    results = list(track(run(paths), total=len(paths), desc="accuracy", unit="image"))
    scores = scores_of(data, match_labels(data.labels, header.spec["labels"]), results)
    figure = scores["figures"][FIGURE[data.task]]
    if figure is None:
        raise UserError("the validation data has no object that counts: give images with some")
    return 100 * figure
