"""Formats the rows of `effedge.pipeline.reports.accuracy.measure` as Markdown: AP in points, top-1 in percent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
FIGURES = {"AP": "AP 50:95", "top-1": "top-1"}


def value(row: Row, variant: str) -> float | None:
    """Returns a figure of 0 to 100; None where it was not measured, or the data cannot give it."""
    figure = row["results"].get(variant, {"figures": {}})["figures"].get(row["figure"])
    return None if figure is None else 100 * figure


def drop(row: Row) -> float | None:
    """Computes INT8's loss against FP32, in points; negative where INT8 gains."""
    before, after = value(row, "fp32"), value(row, "int8")
    return None if before is None or after is None else before - after


def number(figure: float | None) -> str:
    """Formats a figure with one digit behind the point, never "-0.0"; a dash for None."""
    return "–" if figure is None else f"{round(figure, 1) + 0.0:.1f}"


def cost(calibration: dict[str, Any]) -> str:
    """Formats the seconds and the peak memory of a calibration; "failed" for a peer that did not finish."""
    if "failed" in calibration:
        return "failed"
    return f"{calibration['seconds']:.0f} s, {calibration['peak_mib']} MiB"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "model, data": lambda row: f"{row['model']}, {row['data']}, {row['images']} images",
    "figure": lambda row: FIGURES[row["figure"]],
    "FP32": lambda row: number(value(row, "fp32")),
    "FP16": lambda row: number(value(row, "fp16")),
    "INT8": lambda row: number(value(row, "int8")),
    "drop": lambda row: number(drop(row)),
    "multiply-adds in INT8": lambda row: f"{100 * row['calibration']['int8_macs']:.0f}%",
    "NNCF INT8": lambda row: number(value(row, "nncf")),
    "ONNX Runtime INT8": lambda row: number(value(row, "onnxruntime")),
    "ModelOpt INT8, entropy / max": lambda row: " / ".join(number(value(row, p)) for p in ("modelopt", "modelopt_max")),
    "effedge's INT8 on ONNX Runtime": lambda row: number(value(row, "int8_onnxruntime")),
    "without zero points": lambda row: number(value(row, "int8_symmetric")),
    "the same on ONNX Runtime": lambda row: number(value(row, "int8_symmetric_onnxruntime")),
    "calibration": lambda row: cost(row["calibration"]),
    "the others' calibration": lambda row: "; ".join(f"{name} {cost(peer)}" for name, peer in row["peers"].items()),
}


def markdown(rows: Sequence[Row]) -> str:
    """Formats a table with a line for each row."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
