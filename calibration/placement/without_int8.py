"""Takes named layers of a calibrated INT8 model back to 16 bit: plan B, where a builder may have no kernel for them.

The layers' Q/DQ pairs go, and stay for the other readers of the same tensors (graph/unquantize.py); the report in the
model's metadata says why the layers are in 16 bit.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import onnx_ir as ir

from effedge.calibration.by_latency import update_report
from effedge.calibration.graph.unquantize import int8_layers, unquantize
from effedge.calibration.report import attach_report
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY, CalibrationReport

REASON = "its INT8 kernel may be missing"


def without_int8(model: ir.Model, layer_names: Collection[str], reason: str = REASON) -> ir.Model:
    """Returns the INT8 model (from onnx_file.load) with the named layers in 16 bit; `model` stays as it is.

    Args:
        reason: for the report's `float_layers`.

    Raises:
        UserError: a name that is no INT8 layer's, or no INT8 layer would be left.
    """
    before = {node.name for node in int8_layers(model)}
    strangers = sorted(set(layer_names) - before)
    if strangers:
        raise UserError(f"'{strangers[0]}' is none of the model's {len(before)} INT8 layers: give names of these")
    if before == set(layer_names):
        raise UserError(f"all {len(before)} INT8 layers would be in 16 bit: build the float model as fp16 instead")
    changed = unquantize(model, layer_names)
    report: CalibrationReport = {"float_layers": {}, "thresholds": {}}
    report.update(json.loads(model.metadata_props.get(CALIBRATION_KEY, "{}")))  # none in a foreign INT8 model
    update_report(report, changed, dict.fromkeys(layer_names, reason))
    attach_report(changed, report)
    return changed
