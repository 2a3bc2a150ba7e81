"""Writes the result of a roll-out: a table by board and by model of board, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_json
from effedge.pipeline.reports.engine_table import aligned
from effedge.pipeline.shipping.fleet.board import (
    ENGINE_STEP,
    FIGURES,
    INSTALLED_NOW,
    NOT_SERVED,
    ROLLED_BACK,
    UP_TO_DATE,
    WOULD_INSTALL,
    WOULD_ROLL_BACK,
    Row,
)
from effedge.pipeline.shipping.fleet.playbook import NOT_STARTED

FORMAT = 1
GOOD = (INSTALLED_NOW, UP_TO_DATE, WOULD_INSTALL, ROLLED_BACK, WOULD_ROLL_BACK, NOT_SERVED)
UNKNOWN = "–"


class Model(TypedDict):
    """The boards of one model that run one bundle: the medians of their engine's p50, p90 and p99 in ms, the board with
    the longest p99, and the median of their ratios to their baselines."""

    model: str
    bundle: str
    boards: int
    latency_ms: dict[str, float]
    slowest: str
    slowest_p99_ms: float
    ratio: float | None


class Result(TypedDict):
    """The content of the JSON file; `bundles` are the SHA-256 by path."""

    format: int
    inventory: str
    action: str
    options: dict[str, Any]
    bundles: dict[str, str]
    started: str
    seconds: float
    interrupted: bool
    boards: list[Row]
    models: list[Model]


def by_model(rows: Sequence[Row]) -> list[Model]:
    """Groups the boards that were timed by their model and bundle, in the order in which these come."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "latency_ms" in row:
            groups.setdefault((row["model"], row["bundle"]), []).append(row)
    models = []
    for (model, bundle), group in groups.items():
        slowest = max(group, key=lambda row: row["latency_ms"][ENGINE_STEP]["p99"])
        ratios = [row["ratio"] for row in group if row["ratio"] is not None]
        models.append(
            Model(
                model=model,
                bundle=bundle,
                boards=len(group),
                latency_ms={key: median(row["latency_ms"][ENGINE_STEP][key] for row in group) for key in FIGURES},
                slowest=slowest["board"],
                slowest_p99_ms=slowest["latency_ms"][ENGINE_STEP]["p99"],
                ratio=median(ratios) if ratios else None,
            )
        )
    return models


def table(result: Result) -> str:
    """Writes the tables and, below them, the reason of each board that has one, and the notes."""
    titles = ["state", *(f"{key} ms" for key in FIGURES), "baseline", "self-test", "power mode", "model"]
    by_board = {row["board"]: cells(row) for row in result["boards"]}
    known = [any(row[index] != UNKNOWN for row in by_board.values()) for index in range(len(titles))]
    rows = {name: list(compress(row, known)) for name, row in {"board": titles, **by_board}.items()}
    lines = aligned(rows)
    if result["models"]:
        models = {"model": ["boards", *(f"{key} ms" for key in FIGURES), "baseline", "slowest p99 ms", "bundle"]}
        for group in result["models"]:
            slowest = f"{group['slowest_p99_ms']:.2f} ({group['slowest']})"
            figures = [f"{group['latency_ms'][key]:.2f}" for key in FIGURES]
            key = group["model"] if group["model"] not in models else f"{group['model']} ({group['bundle']})"
            models[key] = [str(group["boards"]), *figures, times(group["ratio"]), slowest, group["bundle"]]
        lines += ["", *aligned(models)]
    remarks = [f"{row['board']}: {row['state']}: {row['reason']}" for row in result["boards"] if row.get("reason")]
    remarks += [f"{row['board']}: note: {note}" for row in result["boards"] for note in row.get("notes", [])]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def cells(row: Row) -> list[str]:
    """Returns a board's cells: the figures are the engine's, without letterbox and NMS."""
    steps = row.get("latency_ms", {}).get(ENGINE_STEP)
    figures = [UNKNOWN] * len(FIGURES) if steps is None else [f"{steps[key]:.2f}" for key in FIGURES]
    test = row.get("self_test")
    passed = UNKNOWN if test is None else f"IoU {test['iou']:.3f}, scores {test['score']:.4f}"
    facts = [row.get("power_mode") or UNKNOWN, row.get("model") or UNKNOWN]
    return [row["state"], *figures, times(row.get("ratio")), passed, *facts]


def times(ratio: float | None) -> str:
    """Writes a ratio to a baseline, as "x1.02"."""
    return UNKNOWN if ratio is None else f"x{ratio:.2f}"


def summary(result: Result) -> str:
    """Counts the boards by state: "3 installed, 1 failed"; tells why some were not begun."""
    states = [row["state"] for row in result["boards"]]
    stopped = ""
    if NOT_STARTED in states and not result["interrupted"]:
        share = result["options"]["max_fail"]
        stopped = f"; it stopped after a batch of which more than {share:g}% failed (--max-fail), or all"
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) + stopped


def read_baselines(path: Path) -> dict[str, Row]:
    """Reads the rows of an earlier roll-out's JSON that have latencies, by board. Raises UserError for another file."""
    content = read_json(path, "give the JSON of an earlier roll-out")
    try:
        rows = {row["board"]: row for row in content["boards"] if row.get("latency_ms")}
        for row in rows.values():
            row["latency_ms"][ENGINE_STEP]["p50"] / 1
        is_result = content["format"] == FORMAT
    except (TypeError, KeyError, AttributeError):
        is_result = False
    if not is_result:
        raise UserError(f"'{path}' is no result of `effedge fleet`: expected the JSON that an earlier roll-out wrote")
    return rows
