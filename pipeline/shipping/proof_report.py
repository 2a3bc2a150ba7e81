"""Makes the report of a proof: the facts of the board, a row for each engine, a table, and the README's row."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, TypedDict

import effedge
from effedge.deploy.latency import BoardReadings
from effedge.deploy.timing.board_notes import mode
from effedge.engines.targets import PRECISIONS, Target

FORMAT = 1
HEADER = ("model", "precision", "p50", "p90", "p99", "end to end", "against", "race (95%)", "as on the CPU", "remarks")


class Row(TypedDict):
    """An engine of a proof; what could not be had is None, and `reason` says why.

    label: names the row.
    installed, latency: installed.json, and latency.json without its samples.
    traffic: of the manifest.
    beside: the precision of the engine that it was raced with.
    proof: proof.json.
    """

    label: str
    model: str
    weights: str
    precision: str
    dla: bool
    reason: str
    installed: dict[str, Any] | None
    latency: dict[str, Any] | None
    traffic: dict[str, Any] | None
    beside: str | None
    proof: dict[str, Any] | None


class Report(TypedDict):
    """The content of report.json. `machine`, `backend`, `l4t` and `board` are the first installed engine's."""

    format: int
    effedge: str
    date: str
    host: str
    target: str
    device: str
    machine: dict[str, Any] | None
    l4t: str | None
    backend: str | None
    board: BoardReadings | None
    rows: list[Row]


def new_row(model: str, weights: str, precision: str, dla: bool) -> Row:
    """Makes the row of an engine of which nothing is known yet."""
    label = " ".join([model, weights, precision, *(["dla"] if dla else [])])
    return {
        "label": label, "model": model, "weights": weights, "precision": precision, "dla": dla, "reason": "",
        "installed": None, "latency": None, "traffic": None, "beside": None, "proof": None,
    }  # fmt: skip


def make_report(target: Target, host: str, rows: Sequence[Row]) -> Report:
    """Makes the report of the rows so far."""
    first = next((row for row in rows if row["installed"]), None)
    installed = first["installed"] or {} if first else {}
    backend = installed.get("backend") or {}
    return {
        "format": FORMAT,
        "effedge": effedge.__version__,
        "date": datetime.date.today().isoformat(),
        "host": host.rpartition("@")[2],
        "target": target.name,
        "device": target.device,
        "machine": installed.get("machine"),
        "l4t": installed.get("l4t"),
        "backend": f"{backend['name']} {backend.get('version', '')}".strip() if backend else None,
        "board": first["latency"]["board"] if first and first["latency"] else None,
        "rows": list(rows),
    }


def cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """Writes a row's cells, as HEADER names them; latencies are in ms."""
    steps = row["latency"]["steps"] if row["latency"] else {}
    engine, end_to_end = steps.get("engine", {}), steps.get("end to end", {})
    proof = row["proof"] or {}
    precision = f"{row['precision']}, DLA" if row["dla"] else row["precision"]
    return [
        row["model"] if row["weights"] != "random" else f"{row['model']} (random weights)",
        precision,
        *(number(engine.get(name)) for name in ("p50", "p90", "p99")),
        number(end_to_end.get("p50")),
        against(row, rows),
        race(proof.get("race"), row["beside"]),
        agreement(proof.get("agreement")),
        "; ".join(remarks(row)),
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def against(row: Row, rows: Sequence[Row]) -> str:
    """Writes the ratio of the engine's median latency to that of the model's engine that it was raced with."""
    for other in rows:
        same = (other["model"], other["weights"]) == (row["model"], row["weights"]) and not other["dla"]
        if same and other["precision"] == row["beside"] and other["latency"] and row["latency"]:
            ours, theirs = (each["latency"]["steps"]["engine"]["p50"] for each in (row, other))  # type: ignore[index]
            return f"{ours / theirs:.2f} × {row['beside']}"
    return "–"


def race(figures: dict[str, float] | None, beside: str | None) -> str:
    """Writes the ratio and the interval of a race."""
    if figures is None:
        return "–"
    return f"{figures['ratio']:.3f} × {beside} ({figures['low']:.3f} to {figures['high']:.3f})"


def agreement(figures: dict[str, Any] | None) -> str:
    """Writes the agreement with the CPU's results."""
    if figures is None:
        return "–"
    worst = f"scores within {figures['score']:.4f} (worst {figures['score_worst']:.3f})"
    if "top1" in figures:
        return f"top-1 {100 * figures['top1']:.1f}% of {figures['images']}, {worst}"
    if not figures["expected"] and not figures["extra"]:
        return f"no detections in {figures['images']} images"
    return (
        f"{100 * figures['found']:.1f}% of {figures['expected']} in {figures['images']} images, {figures['extra']} "
        f"others; IoU {figures['iou']:.3f} (worst {figures['iou_worst']:.3f}), {worst}, AP {100 * figures['ap']:.1f}"
    )


def remarks(row: Row) -> list[str]:
    """Lists what a reader should know of a row."""
    lines = [row["reason"]] if row["reason"] else []
    installed = row["installed"] or {}
    plan_b = installed.get("fallback")
    if plan_b:
        lines.append(f"plan B, with {len(plan_b['layers'])} more layers in 16 bit: {plan_b['reason']}")
    if row["weights"] == "random" and row["proof"]:
        lines.append("random weights, whose results say nothing of the accuracy")
    if installed.get("convolutions"):
        lines.append("convolutions: " + ", ".join(f"{n} {kind}" for kind, n in installed["convolutions"].items()))
    if row["traffic"]:
        lines.append(f"traffic {row['traffic']['mib']:.1f} MiB, {row['traffic']['ratio']:.2f} × fp16")
    soak = (row["proof"] or {}).get("soak")
    if soak:
        lines.append(f"soak of {soak['seconds']:.0f} s: at its end a run takes {soak['drift']:.3f} times as long")
        lines += soak["notes"]
    return lines


def table(rows: Sequence[Row]) -> str:
    """Formats all rows in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *([cell.replace("|", "\\|") for cell in cells(row, rows)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def readme_row(report: Report) -> str:
    """Formats the row for the README's table of targets: target, device, precisions that ran, and what was run."""
    proved = [row for row in report["rows"] if row["proof"] and not row["reason"] and not row["dla"]]
    ran = {name: [row for row in proved if row["precision"] == name] for name in PRECISIONS}
    yes = ", ".join("yes" if ran[name] else "–" for name in PRECISIONS)
    machine, board = report["machine"] or {}, report["board"]
    where = [str(machine.get("name") or report["host"])]
    if report["l4t"]:
        where.append(f"Jetson Linux {report['l4t']}")
    where.append(str(report["backend"]))
    power = mode(board["after"].get("power_mode")) if board else None
    if power:
        where.append(f"power mode {power}")
    models: dict[str, list[str]] = {}
    for name in reversed(PRECISIONS):
        for row in ran[name]:
            if not row["dla"] and row["latency"]:
                p50 = row["latency"]["steps"]["engine"]["p50"]
                models.setdefault(row["model"], []).append(f"{name} {p50:.2f}")
    figures = "; ".join(f"{model} {', '.join(times)} ms" for model, times in models.items())
    state = f"run on {', '.join(where)} ({report['date']}): {figures or 'nothing'}"
    return f"| `{report['target']}` | {report['device']} | {yes} | {state} |"
