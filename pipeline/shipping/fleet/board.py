"""Rolls a bundle out to one board, checks whether that could be done, or goes back to the bundle before it.

A roll-out is what `effedge deploy` does (push.py), between a look at the board's state before it, and the comparison of
the latencies with the board's baseline after it. It changes nothing on a board that is not as the inventory says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_json, sha256
from effedge.deploy.common.messages import log
from effedge.deploy.timing.board_notes import differences, disturbances, mode
from effedge.engines.installation.candidate import INSTALLED, LATENCY
from effedge.pipeline.shipping.fleet.state import LEAST_PYTHON, State, read_state
from effedge.pipeline.shipping.push import SPACE, deploy, mib, names_there
from effedge.pipeline.shipping.ssh import Board
from effedge.pipeline.shipping.trust import CHECK

INSTALLED_NOW, UP_TO_DATE, WOULD_INSTALL = "installed", "up to date", "would install"
ROLLED_BACK, WOULD_ROLL_BACK, NOT_SERVED = "rolled back", "would roll back", "does not serve it"
NOTHING_BEFORE = "no earlier bundle {name} is kept there: roll another one out"
FIGURES = ("p50", "p90", "p99")
ENGINE_STEP = "engine"
# Turns the link to the bundle that served before. Its signature is checked as if it came now: the board may have had no
# key yet when it came.
BACK = """
cd effedge && [ "$(readlink {name})" = {work} ] || {{ echo "it is another bundle that serves there now" >&2; exit 1; }}
before=$(readlink .{name}-before)
[ -d "$before" ] || {{ echo "{nothing}" >&2; exit 1; }}
PYTHON={python}; export PYTHON
(cd "$before" && {{ {check}; }}) >&2 || exit 1
rm -rf .{name}-link && ln -s "$before" .{name}-link && mv -fT .{name}-link {name} && rm -f .{name}-before && sync
"""
READ_LATENCY = "cat effedge/{folder}/latency.json 2>/dev/null || :"


@dataclass(frozen=True)
class Task:
    """A task for a board: a bundle, and the inventory's variables.

    Args:
        python: the board's.
        key: the public key that the bundle is signed by; it is pinned on the board.
        power_mode: the mode that the board must have, by name or number; None: any.
        tolerance: per cent by which the engine may be slower than the baseline; None: any.
        baseline: the board's row of an earlier roll-out; None: the bundle that served before is the baseline.
    """

    archive: Path
    python: str = "python3"
    key: Path | None = None
    power_mode: str | None = None
    tolerance: float | None = None
    baseline: dict[str, Any] | None = None


class Row(TypedDict, total=False):
    """A board's result. `state` is always there; what is not known is missing.

    `latency_ms` has p50, p90 and p99 by step, and `baseline_ms` those of the baseline; `ratio` is that of the engine's
    p50.
    """

    board: str
    host: str
    state: str
    reason: str
    changed: bool
    seconds: float
    model: str
    bundle: str
    precision: str | None
    power_mode: str | None
    self_test: dict[str, Any]
    latency_ms: dict[str, dict[str, float]]
    baseline_ms: dict[str, dict[str, float]] | None
    ratio: float | None
    notes: list[str]
    folder: str


def roll_out(board: Board, task: Task, row: Row) -> None:
    """Installs the bundle, unless it is up to date, and compares its latency with the baseline.

    Args:
        row: receives the results as they become known.

    Raises UserError if the board is not as it must be, the installation fails, or the engine is slower than it may be:
    then the board has gone back to the bundle before. Raises ConnectionLost without a connection.
    """
    names = names_there(task.archive, task.python)
    before = read_facts(board, names, row)
    check_state(before, task, names)
    earlier = before.before if before.serves == names["work"] else before.serves
    baseline = task.baseline or read_earlier(board, earlier)
    folder = deploy(task.archive, board, task.python, key=task.key)
    row.update(read_results(folder, baseline))
    as_before = before.serves == names["work"] and before.installed == sha256(folder / INSTALLED.name)
    row.update(Row(state=UP_TO_DATE if as_before else INSTALLED_NOW, changed=not as_before))
    ratio = row["ratio"]
    if task.tolerance is not None and ratio is not None and ratio > 1 + task.tolerance / 100:
        slower = f"its p50 is {ratio:.2f} times the baseline's, {1 + task.tolerance / 100:.2f} may be"
        back = turn_back(board, names) if earlier else "there is no earlier bundle to go back to"
        raise UserError(f"{slower}; {back}")


def check(board: Board, task: Task, row: Row) -> None:
    """Tells what `roll_out` would do, and changes nothing. Raises the same errors, as far as they are known before."""
    names = names_there(task.archive, task.python)
    state = read_facts(board, names, row)
    check_state(state, task, names)
    is_served = state.serves == names["work"] and state.installed != ""
    row.update(Row(state=UP_TO_DATE if is_served else WOULD_INSTALL, changed=not is_served))
    if not is_served:
        missing = 0 if state.whole else max(0, task.archive.stat().st_size - state.copied)
        earlier = f"in place of {state.serves.rpartition('-')[2]}" if state.serves else "the first of its name"
        row["reason"] = f"{mib(missing)} to copy, {earlier}"


def roll_back(board: Board, task: Task, row: Row, check_only: bool = False) -> None:
    """Goes back to the bundle that served before this one. A board that does not serve this one is left as it is.

    Args:
        row: as of `roll_out`.
        check_only: change nothing, and tell what would be done.

    Raises UserError if the board has no earlier bundle, or does not trust it.
    """
    names = names_there(task.archive, task.python)
    state = read_facts(board, names, row)
    refuse_busy(state)  # it turns the link at its end
    if state.serves != names["work"]:
        row.update(Row(state=NOT_SERVED, changed=False))
        return
    if not check_only:
        turn_back(board, names)
    elif not state.before:
        raise UserError(NOTHING_BEFORE.format(**names))
    row.update(Row(state=WOULD_ROLL_BACK if check_only else ROLLED_BACK, changed=True))


def read_facts(board: Board, names: dict[str, str], row: Row) -> State:
    """Reads the board's state; its model and power mode go into the row."""
    state = read_state(board, names)
    row.update(Row(model=state.model, power_mode=state.power_mode))
    return state


def turn_back(board: Board, names: dict[str, str]) -> str:
    """Turns the link on the board; returns a sentence about it. Raises UserError."""
    board.run(BACK.format(check=CHECK, nothing=NOTHING_BEFORE.format(**names), **names))
    log.info(f"roll back: {board.host}:effedge/{names['name']} is the bundle that served before")
    return "the earlier bundle serves again"


def check_state(state: State, task: Task, names: dict[str, str]) -> None:
    """Raises UserError unless an installation may begin on a board in this state."""
    if state.python < LEAST_PYTHON:
        version = ".".join(map(str, state.python)) or "of an unknown version"
        raise UserError(f"'{task.python}' is Python {version} there, expected 3.8 or later: set effedge_python")
    wanted, now = task.power_mode, state.power_mode
    if wanted is not None and (now is None or wanted not in (now, now.split(" ")[0], now.rpartition("(")[2][:-1])):
        raise UserError(
            f"the power mode is {now or 'unknown'}, effedge_power_mode asks for {wanted}: set it with `sudo nvpmodel "
            "-m` there, as latencies of two modes do not compare"
        )
    if not state.whole:
        needed = SPACE * task.archive.stat().st_size - state.copied
        if state.free < needed:
            raise UserError(f"{mib(state.free)} are free, {mib(needed)} are needed: make room there")
    refuse_busy(state, names["work"])


def refuse_busy(state: State, work: str = "") -> None:
    """Raises UserError if an installation or a proof runs in another folder than `work`."""
    busy = [folder for folder in state.busy if folder != work]
    if busy:
        raise UserError(f"an installation or a proof runs there, in ~/effedge/{busy[0]}: wait for it, or end it")


def read_earlier(board: Board, folder: str) -> dict[str, Any] | None:
    """Reads latency.json of a folder of ~/effedge on the board; None without one."""
    content = board.run(READ_LATENCY.format(folder=folder)) if folder else b""
    try:
        return dict(json.loads(content)) if content else None
    except ValueError:  # it was cut; it is a comparison the less
        return None


def read_results(folder: Path, baseline: dict[str, Any] | None) -> Row:
    """Makes the row of the files that `deploy` has brought back.

    Args:
        baseline: a latency.json, or a row of an earlier roll-out.
    """
    remedy = "roll the bundle out again"
    latency, installed = read_json(folder / LATENCY.name, remedy), read_json(folder / INSTALLED.name, remedy)
    here = latency["board"]
    steps = figures(latency["steps"])
    then = baseline and figures(baseline.get("steps") or baseline.get("latency_ms") or {})
    known = bool(then and ENGINE_STEP in then)
    recorded = (baseline or {}).get("board")
    return Row(
        precision=latency["engine"]["precision"],
        power_mode=mode(here["after"].get("power_mode")),
        self_test=installed["self_test"],
        latency_ms=steps,
        baseline_ms=then if known else None,
        ratio=round(steps[ENGINE_STEP]["p50"] / then[ENGINE_STEP]["p50"], 4) if then and known else None,
        notes=[
            *(differences(recorded["after"], here["after"]) if isinstance(recorded, dict) else []),
            *disturbances(here["before"], here["after"]),
        ],
        folder=str(folder),
    )


def figures(steps: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Picks p50, p90 and p99 in ms by step."""
    return {step: {key: row[key] for key in FIGURES} for step, row in steps.items()}
