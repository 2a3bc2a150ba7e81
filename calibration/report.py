"""The report of a calibration, read back from the INT8 ONNX that carries it (study.py says what is in it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effedge.calibration.ranges.source import METADATA
from effedge.deploy.common.cli import UserError

if TYPE_CHECKING:
    import onnx_ir as ir


def read_report(path: Path) -> tuple[ir.Model, dict[str, Any]]:
    """The INT8 model at `path` and its report.

    Raises:
        UserError: no ONNX file, or one without a report of an INT8 calibration by this version.
    """
    from effedge.calibration.graph import onnx_file

    model = onnx_file.read(path)
    try:
        report = json.loads(model.metadata_props.get(METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"the calibration report in '{path}' is damaged ({error}): calibrate again") from error
    if not {"thresholds", "sensitivity", "float_layers"} <= set(report):
        raise UserError(
            f"'{path}' has no report of an INT8 calibration: give the int8.onnx that `make calibrate` or "
            "effedge quantize wrote"
        )
    return model, report
