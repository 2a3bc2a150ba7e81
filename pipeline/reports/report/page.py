"""Writes the page of a report: what was measured becomes text and charts, and report.html puts them into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

import effedge
from effedge.deploy.common.files import sha256_of_files
from effedge.deploy.timing.machine import machine, versions
from effedge.deploy.timing.percentiles import summarize
from effedge.pipeline.datasets.records import DataSet, annotations_digest
from effedge.pipeline.reports.engine_table import size_mb
from effedge.pipeline.reports.report import provenance
from effedge.pipeline.reports.report.accuracy import Accuracy, difference
from effedge.pipeline.reports.report.engines import ReportedEngine
from effedge.pipeline.reports.report.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from effedge.pipeline.reports.report.latency import histograms
from effedge.pipeline.reports.report.render import render

PACKAGES = ("numpy", "pillow", "pycocotools", "jinja2", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13")
DISTURBED = 2  # the ratio of a median and the quickest run, of a machine that does other work too
FOLDED = 20  # rows of a table by class beyond these are folded


def write_page(
    engines: Sequence[ReportedEngine],
    data: DataSet,
    accuracy: Accuracy | None,
    layers: Mapping[str, Any],
    source: str,
    not_run: Sequence[str],
) -> str:
    """Writes the page.

    Args:
        layers: the table of layers (layers.py).
        source: the name of the data as the user gave it.
        not_run: what was not run, a line each.
    """
    models = ", ".join(dict.fromkeys(engine.manifest["spec"]["model"] for engine in engines))
    host, precisions = machine(), provenance.precisions(engines)
    latency = latency_rows(engines)
    return render(
        "report.html",
        {
            "title": f"{models}: report",
            "style": "",
            "models": models,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "task": data.task,
            "data_hashes": (sha256_of_files(record.path for record in data.records), annotations_digest(data)),
            "frame": (WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
            "source": source,
            "images": len(data.records),
            "engines": engines,
            "summary": summary(engines, accuracy),
            "card": provenance.card(engines),
            "precisions": precisions,
            "kinds": sorted({kind for row in precisions for kind, _ in row.shares}),
            "accuracy": accuracy,
            "folded": FOLDED,
            "layers": layers,
            "latency": latency,
            "is_disturbed": any(row["p50"] > DISTURBED * row["min"] for row in latency),
            "histograms": histograms(engines),
            "machine": f"{host['cpu']}, {host['cores']} cores; {host['system']}",
            "stages": provenance.stages(engines),
            "warnings": [provenance.warnings_of(engine.manifest) for engine in engines],
            "versions": {"effedge": effedge.__version__, **versions(PACKAGES)},
            "not_run": [*not_run, *([] if layers else [NO_SENSITIVITY])],
        },
    )


NO_SENSITIVITY = (
    "Sensitivity by layer: no INT8 ONNX with a calibration report lies beside the engines, or its calibration did not "
    "measure the layers (effedge layer-accuracy INT8.onnx --data DATA does)."
)


def summary(engines: Sequence[ReportedEngine], accuracy: Accuracy | None) -> list[dict[str, Any]]:
    """Returns a row for each engine: accuracy, latency and size, and how they compare with the reference's."""
    figures = {} if accuracy is None else dict(zip(accuracy.numbers, accuracy.figures, strict=True))
    rows: list[dict[str, Any]] = [
        {
            "name": engine.name,
            "accuracy": next(iter(figures.get(number, {}).values()), None),
            "p50": float(np.median(engine.latencies)) if engine.latencies else None,
            "mb": size_mb(engine.folder, engine.manifest),
        }
        for number, engine in enumerate(engines)
    ]
    first = rows[0]
    for row in rows:
        row["change"] = difference(row["accuracy"], first["accuracy"])
        row["speed"] = first["p50"] / row["p50"] if first["p50"] and row["p50"] else None
        row["size"] = row["mb"] / first["mb"] if first["mb"] else None
    return rows


def latency_rows(engines: Sequence[ReportedEngine]) -> list[dict[str, Any]]:
    """Returns the percentiles of the engines that were timed."""
    return [
        {"number": number, "name": engine.name, "runs": len(engine.latencies), **summarize(engine.latencies)}
        for number, engine in enumerate(engines)
        if engine.latencies
    ]
