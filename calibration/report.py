"""Reads and writes the report of a calibration, in the metadata of the ONNX that carries it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY, CalibrationReport
from effedge.deploy.common.strict_json import parse_json

if TYPE_CHECKING:
    import onnx_ir as ir


def attach_report(model: ir.Model, report: CalibrationReport) -> None:
    """Writes the report into the model's metadata."""
    model.metadata_props[CALIBRATION_KEY] = json.dumps(report)


def read_report(path: Path) -> tuple[ir.Model, CalibrationReport]:
    """Reads the INT8 model at `path` and its report.

    Raises:
        UserError: no ONNX file, or one without a report of an INT8 calibration by this version.
    """
    from effedge.calibration.graph import onnx_file

    model = onnx_file.read(path)
    try:
        report = parse_json(model.metadata_props.get(CALIBRATION_KEY, "{}"))
    except ValueError as error:
        raise UserError(f"the calibration report in '{path}' is damaged ({error}): calibrate again") from error
    if not {"thresholds", "sensitivity", "float_layers"} <= set(report):
        raise UserError(
            f"'{path}' has no report of an INT8 calibration: give the int8.onnx that `make calibrate` or "
            "effedge quantize wrote"
        )
    return model, report
