"""The accuracy of an ONNX model that is in memory, on labelled pictures: what `make engine MAX_DROP=...` goes by.

The model becomes a CPU engine in a temporary folder and runs there with the device's own pre- and post-processing, so
the figure is that of `make evaluate` on the same pictures: COCO's AP 50:95 of a detector, top-1 of a classifier.
"""

from __future__ import annotations

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effedge.calibration.ranges.samples import digest, spread
from effedge.calibration.settings import Budget
from effedge.deploy.common.cli import UserError
from effedge.engines.stage import progress_disabled, tool_versions
from effedge.pipeline.datasets.labelled import model_ids, read_for
from effedge.pipeline.datasets.records import DataSet, match_labels

if TYPE_CHECKING:
    import onnx_ir as ir

PICTURES = 300
FIGURE = {"detection": "AP", "classification": "top-1"}
DIGITS = "digits"


def read_labelled(given: str | None, digits: Path | None, task: str) -> DataSet:
    """At most PICTURES labelled pictures to measure a model on, evenly spread over the data.

    Args:
        given: a path for `effedge.pipeline.datasets.read`, or `digits`, the default for a model that knows them.
        digits: the drawn digits' calibration pictures, whose labels are known too, so that the validation pictures stay
            unseen; None where the model does not know them.
        task: of the model.

    Raises:
        UserError: no data is given, there is none, or it is for another task.
    """
    if given in (None, DIGITS):
        if digits is None:
            raise UserError(
                "MAX_DROP (--max-drop) needs labelled pictures of what the model knows: give them with VALIDATION "
                "(--validation), a COCO json, a Pascal VOC folder, a folder of folders or a .tsv"
            )
        # `digits` is what is calibrated on: for a detector the images beside their COCO json.
        path = digits.with_name("instances.json") if task == "detection" else digits
    else:
        path = Path(str(given))
    data = read_for(task, path)
    return data._replace(records=spread(data.records, PICTURES))


def check_drop(max_drop: float | None, validation: str | None, precision: str) -> None:
    """UserError for a drop that is none, or is given for a precision that loses next to nothing."""
    if max_drop is None:
        if validation is not None:
            raise UserError(f"VALIDATION '{validation}' (--validation) is for MAX_DROP (--max-drop): give that too")
        return
    if not 0 <= max_drop <= 100:
        raise UserError(f"MAX_DROP {max_drop:g} (--max-drop): expected 0 to 100 points of AP or top-1")
    if precision != "int8":
        raise UserError(f"MAX_DROP (--max-drop) is about INT8, and {precision} was asked for: leave it out")


def drop_budget(max_drop: float, data: DataSet, spec: dict[str, Any], *, quiet: bool) -> Budget:
    """The budget of a model with this spec, for `effedge.calibration.quantize.calibrate`.

    Raises:
        UserError: data of classes that the model does not have.
    """
    model_ids(data, spec["labels"])
    unit = f"points of {FIGURE[data.task]}"
    record = {"validation": digest_of(data), **tool_versions(["openvino"])}
    return Budget(max_drop, partial(accuracy, data=data, quiet=quiet), unit, tuple(record.items()), (__name__,))


def digest_of(data: DataSet) -> str:
    """SHA-256 over the pictures and what is said to be in them."""
    whole = hashlib.sha256(digest([record.path for record in data.records]).encode())
    whole.update(repr(data.labels).encode())
    for record in data.records:
        for array in record[1:]:
            whole.update(str(array.dtype).encode() + array.tobytes())
    return whole.hexdigest()


def accuracy(model: ir.Model, *, data: DataSet, quiet: bool) -> float:
    """The figure of a float or INT8 model on the data, in points (0..100).

    Raises:
        UserError: OpenVINO refuses the model, a picture cannot be read, or the data has nothing to be found.
    """
    import openvino
    from tqdm import tqdm

    from effedge.calibration.graph import onnx_file
    from effedge.deploy.runtime import openvino_backend
    from effedge.engines.onnx_header import read_header
    from effedge.engines.openvino import builder
    from effedge.pipeline.evaluation.backend import BackendClassifier, BackendDetector, BackendEngine
    from effedge.pipeline.evaluation.evaluate import classification_scores, detection_scores

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx = folder / "model.onnx"
        onnx_file.save(model, onnx)
        header = read_header(onnx)
        built = builder.build(openvino, onnx, folder, header, precision="fp32", disable_progress=True)
        backend = openvino_backend.load(folder / built.engine, {"backend": built.backend})
    engine = BackendEngine(backend, "the model that is tried", header.spec)
    run = BackendDetector(engine) if data.task == "detection" else BackendClassifier(engine)
    paths = [record.path for record in data.records]
    bar = tqdm(run(paths), total=len(paths), desc="accuracy", unit="picture", disable=progress_disabled(quiet))
    scores = detection_scores if data.task == "detection" else classification_scores
    figure = scores(data, match_labels(data.labels, header.spec["labels"]), list(bar))["figures"][FIGURE[data.task]]
    if figure is None:
        raise UserError("the validation data has no object that counts: give pictures with some")
    return 100 * figure
