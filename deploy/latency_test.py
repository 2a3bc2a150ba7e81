"""Is the engine as fast as it was? python -m deploy.latency_test ENGINE --baseline FILE [--record]

--record measures the engine and writes the baseline, a small JSON file for your own repository. Without it the engine
is held against the baseline, and the exit status is 1 if it became slower by more than the tolerance. Runs take turns
with a fixed reference workload, disturbed ones do not count, and what looks slower is measured again before it fails,
so that a busy machine is not taken for a slow engine (deploy/regression.py). The machine must be the one that recorded,
or one like it. Exit status 3: the machine was too busy to tell.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict

from deploy.board import board
from deploy.board_notes import notes
from deploy.cli import Parser, UserError, run
from deploy.files import check_place, read_json, whole_file
from deploy.latency import PACKAGES, identity
from deploy.manifest import parse_manifest

if TYPE_CHECKING:
    from deploy.regression import Comparison

FORMAT = 3
ATTEMPTS = 3
TOLERANCE = 5.0  # per cent
SLOWER, CANNOT_TELL = 1, 3
MACHINE = ("cpu", "cores")  # what must be the same for latencies to be comparable
FIELDS = {
    "format": int, "engine": dict, "machine": dict, "reference": dict, "ms": dict, "before_ms": list, "after_ms": list,
}  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = Parser(prog="python -m deploy.latency_test", description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="an engine's folder, such as build/d0-digits/int8-cpu")
    parser.add_argument("--baseline", metavar="FILE", type=Path, required=True, help="the baseline, a .json file")
    parser.add_argument("--record", action="store_true", help="write the baseline")
    help = f"how much slower is no regression, in per cent (default: {TOLERANCE:g})"
    parser.add_argument("--tolerance", metavar="PERCENT", type=float, default=TOLERANCE, help=help)
    args = parser.parse_args()
    if not args.tolerance >= 0:
        parser.error(f"--tolerance {args.tolerance}: expected 0 or more per cent")
    return args


def main() -> None:
    args = parse_args()
    if args.record:
        baseline = record(args.engine, args.baseline)
        print(f"recorded {len(baseline['before_ms'])} runs: {args.baseline}")
        return
    baseline = read_baseline(args.baseline)
    before = board()
    comparisons = check(args.engine, baseline, args.tolerance / 100)
    for line in notes(baseline.get("board"), before, board()):
        print(line)
    for step, found in comparisons.items():
        print(sentence(step, found, args.tolerance))
    status = exit_status(comparisons)
    if status:
        sys.exit(status)


def record(folder: str, path: Path) -> Dict[str, Any]:
    """Measure an engine and write the baseline. UserError if the machine was too busy for one."""
    from deploy.interleaved import measure
    from deploy.machine import machine, versions
    from deploy.regression import compare
    from deploy.workload import ENGINE

    check_place(path)
    measured = measure(folder, repeats=2)  # what it is off by, all later tests are
    found = compare(measured, measured, ENGINE, 0)
    if found.slower is None:
        raise UserError(
            f"only {found.quiet} of {found.runs} runs were undisturbed: the machine is too busy to record a baseline"
        )
    whole = {"format": FORMAT, "engine": identity(folder, parse_manifest(folder))}
    whole.update(machine=machine(), board=board(), versions=versions(PACKAGES), **measured)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(whole) + "\n", encoding="utf-8")
    return whole


def read_baseline(path: Path) -> Dict[str, Any]:
    """UserError if there is none, or if it is damaged or of another format."""
    if not path.is_file():
        raise UserError(f"no baseline '{path}': record one first, with --record")
    baseline = read_json(path, "record it again")
    fits = isinstance(baseline, dict) and all(isinstance(baseline.get(name), kind) for name, kind in FIELDS.items())
    if (
        not fits
        or not baseline["ms"]
        or len({len(row) for row in (*baseline["ms"].values(), baseline["before_ms"], baseline["after_ms"])}) > 1
    ):
        raise UserError(f"'{path}' is no latency baseline: record it again, with --record")
    if baseline["format"] != FORMAT:
        raise UserError(f"'{path}' is of format {baseline['format']}, this effedge reads {FORMAT}: record it again")
    return baseline


def check(folder: str, baseline: Dict[str, Any], tolerance: float) -> Dict[str, "Comparison"]:
    """Measure, and measure again before calling it slower: the comparison by step.

    Raises UserError if the baseline is of another machine or of another kind of engine.
    """
    from deploy.interleaved import measure
    from deploy.machine import machine
    from deploy.regression import compare

    here = machine()
    for name in MACHINE:
        if here[name] != baseline["machine"].get(name):
            raise UserError(
                f"the baseline was recorded on {name} {baseline['machine'].get(name)}, this is {here[name]}: "
                "record one for this machine"
            )
    found: Dict[str, Comparison] = {}
    for _ in range(ATTEMPTS):
        now = measure(folder, baseline["reference"])
        if set(now["ms"]) != set(baseline["ms"]):
            raise UserError(f"the baseline times {', '.join(baseline['ms'])}, '{folder}' has {', '.join(now['ms'])}")
        found = {step: compare(baseline, now, step, tolerance) for step in baseline["ms"]}
        if all(comparison.slower is False for comparison in found.values()):
            break
    return found


def sentence(step: str, found: "Comparison", tolerance: float) -> str:
    """A comparison in a line."""
    if found.slower is None:
        return f"{step}: cannot tell, only {found.quiet} of {found.runs} runs were undisturbed: run it again"
    verdict = "SLOWER" if found.slower else "ok"
    interval = f"{found.low:.3f} to {found.high:.3f}"
    return (
        f"{step}: {verdict}, {found.ratio:.3f} times the baseline ({interval}; more than {1 + tolerance / 100:.3f} is "
        f"slower; {found.quiet} of {found.runs} runs undisturbed)"
    )


def exit_status(comparisons: Dict[str, "Comparison"]) -> int:
    """1 if a step is slower, else 3 if one could not be told, else 0."""
    if any(found.slower for found in comparisons.values()):
        return SLOWER
    return CANNOT_TELL if any(found.slower is None for found in comparisons.values()) else 0


if __name__ == "__main__":
    run(main)
