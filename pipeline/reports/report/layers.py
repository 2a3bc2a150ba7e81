"""Tabulates a report's layers: the output error of each group in INT8, and the points that the worst cost alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effedge.calibration.ranges.samples import spread
from effedge.calibration.report import read_report
from effedge.calibration.sensitivity import INT8, RankedRow, has_figures, layer_names, rank_groups
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.reports import layer_accuracy
from effedge.pipeline.reports.report.engines import ReportedEngine
from effedge.pipeline.reports.report.figures import log_bars
from effedge.pipeline.reports.report.provenance import general

WORST_LAYERS = 20


def layer_table(engines: Sequence[ReportedEngine], data: DataSet, measured: int = 0) -> dict[str, Any]:
    """Returns the worst layers of the first engine whose calibration measured them; {} without one.

    Args:
        data: the report's images, of which layer_accuracy.LIMIT are measured on.
        measured: the number of groups in INT8 whose drop is measured on the data, the worst first.

    Raises:
        UserError: drops are asked for, and there are no such layers, or no float model beside their INT8 ONNX.
    """
    for engine in engines:
        int8, ranked = calibrated_onnx(engine)
        rows = [row for row in ranked if row["gain"] > 0]
        if int8 and rows:
            drops = measure_drops(int8, data, measured) if measured else {"drops": []}
            shown = max(WORST_LAYERS, len(drops["drops"]))
            more = max(0, len(rows) - shown)
            return {"engine": engine.name, "more": more, **drops, **bars(rows[:shown], drops["drops"])}
    if measured:
        raise UserError(
            f"--layers {measured}: no INT8 ONNX whose calibration ranked the layers lies beside the engines. effedge "
            "layer-accuracy measures every layer of an INT8 ONNX"
        )
    return {}


def calibrated_onnx(engine: ReportedEngine) -> tuple[Path | None, list[RankedRow]]:
    """Finds the INT8 ONNX beside the engine that it was made from, if that has the report of a calibration which
    measured the layers; returns it with the report's groups, largest gain first."""
    digests = {engine.manifest.get("sources", {}).get("onnx")} | {each["sha256"] for each in engine.stages}
    for path in sorted(engine.folder.resolve().parent.glob("int8*.onnx")):
        if sha256(path) in digests:
            try:
                rows = rank_groups(read_report(path)[1])
            except (UserError, KeyError):
                continue
            return (path, rows) if rows and has_figures(rows) else (None, [])
    return None, []


def measure_drops(int8: Path, data: DataSet, worst: int) -> dict[str, Any]:
    """Measures what each of the worst groups that are in INT8 costs alone.

    Returns:
        "drops" (points, the worst group first, None for groups in 16 bit; to the last that was measured), "figure"
        ("AP" or "top-1"), "images", and "chance" (a line on which drops are too small to be told from chance).
    """
    taken = data._replace(records=spread(data.records, layer_accuracy.LIMIT))
    result = layer_accuracy.measure(int8, int8.with_name(layer_accuracy.FLOAT), taken, worst=worst)
    drops = [None if points is None else result["float"] - points for points in result["groups"]]
    while drops and drops[-1] is None:
        drops.pop()
    return {
        "drops": drops,
        "figure": result["figure"],
        "images": result["images"],
        "chance": layer_accuracy.describe_chance([drop for drop in drops if drop is not None], result),
    }


def bars(rows: Sequence[RankedRow], drops: Sequence[float | None]) -> dict[str, Any]:
    """Returns the rows of the table, with their bars on a logarithmic axis, and its ticks."""
    drawn = log_bars([row["gain"] for row in rows])
    return {
        "rows": [
            {
                "name": layer_names(row["layers"]),
                "all": ", ".join(row["layers"]),
                "end": end,
                "gain": f"{row['gain']:.2g}",
                "int8": row["kept"] == INT8,
                "kept": general(row["kept"].removeprefix("16 bit: ")),
                "drop": drops[index] if index < len(drops) else None,
            }
            for index, (row, end) in enumerate(zip(rows, drawn.ends, strict=True))
        ],
        "ticks": drawn.ticks,
    }
