"""Is the engine as fast as it was? effedge latency-test ENGINE --baseline FILE [--record]

--record measures the engine, writes the baseline, a small JSON file for your own repository, and keeps the engine
beside it (d0.json and the folder d0.engine). Without it the engine is held against the one kept, and the exit status
is 1 if it is slower by more than the tolerance. Their runs take turns, and what looks slower, or is not sure yet, is
measured again before it fails, so that a busy machine is not taken for a slow engine (deploy/timing/regression.py). The
machine must be the one that recorded, or one like it. Exit status 3: the machine was too busy to tell.

A newer runtime (OpenVINO, NumPy, effedge, ...) slows both engines alike. So where one of them is another than the
baseline's, and where no engine was kept, the engine is held against a fixed reference workload too, whose latencies are
in the baseline: that is less exact.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.code_digest import code_digest
from effedge.deploy.common.files import check_place, read_json, whole_file, whole_folder
from effedge.deploy.latency import PACKAGES, UNCOMPILED, front_notes, identity
from effedge.deploy.native.compiled_library import COMPILED
from effedge.deploy.runtime.backends import BACKENDS
from effedge.deploy.runtime.manifest import NAME, parse_manifest, read_manifest
from effedge.deploy.timing.board import board
from effedge.deploy.timing.board_notes import notes

if TYPE_CHECKING:
    from effedge.deploy.timing.regression import Comparison

FORMAT = 4
ATTEMPTS = 4
TOLERANCE = 5.0  # per cent
SLOWER, CANNOT_TELL = 1, 3
MACHINE = ("cpu", "cores")  # what must be the same for latencies to be comparable
FIELDS = {
    "format": int, "engine": dict, "machine": dict, "versions": dict, "reference": dict, "loads": list, "ms": dict,
    "yardstick_ms": dict,
}  # fmt: skip
OWN_CODE, STEPS = "effedge's runtime", "letterbox and NMS"  # in "versions"


def parse_args() -> argparse.Namespace:
    parser = Parser(prog="effedge latency-test", description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="an engine's folder, such as build/d0-digits/int8-cpu")
    parser.add_argument("--baseline", metavar="FILE", type=Path, required=True, help="the baseline, a .json file")
    parser.add_argument("--record", action="store_true", help="write the baseline")
    parser.add_argument("--no-engine", action="store_true", help="with --record: do not keep the engine beside it")
    help = f"how much slower is no regression, in per cent (default: {TOLERANCE:g})"
    parser.add_argument("--tolerance", metavar="PERCENT", type=float, default=TOLERANCE, help=help)
    args = parser.parse_args()
    if args.no_engine and not args.record:
        parser.error("--no-engine goes with --record")
    if not args.tolerance >= 0:
        parser.error(f"--tolerance {args.tolerance}: expected 0 or more per cent")
    return args


def main() -> None:
    args = parse_args()
    if args.record:
        baseline = record(args.engine, args.baseline, keep=not args.no_engine)
        kept = f", and the engine: {kept_path(args.baseline)}" if baseline["kept"] else ""
        print(f"recorded {len(baseline['loads'])} runs: {args.baseline}{kept}")
        return
    baseline = read_baseline(args.baseline)
    before = board()
    comparisons = check(args.engine, baseline, args.tolerance / 100)
    for line in notes(baseline.get("board"), before, board()) + circumstances(args.engine, baseline):
        print(line)
    for step, found in comparisons.items():
        print(sentence(step, found, args.tolerance))
    status = exit_status(comparisons)
    if status:
        sys.exit(status)


def record(folder: str, path: Path, keep: bool = True) -> Dict[str, Any]:
    """Measure an engine and write the baseline, and beside it the engine if it is to be kept. UserError if the machine
    was too busy for one."""
    from effedge.deploy.timing.interleaved import measure
    from effedge.deploy.timing.machine import machine
    from effedge.deploy.timing.regression import compare
    from effedge.deploy.timing.workload import ENGINE

    check_place(path)
    if keep:
        check_kept_path(kept_path(path))
    measured = measure(folder, repeats=2)  # what it is off by, all later tests are
    found = compare(measured, measured, ENGINE, 0)
    if found.slower is None:
        raise UserError(
            f"{found.loads} loads of the engine are from {found.low:.2f} to {found.high:.2f} times their mean: the "
            "machine is too busy to record a baseline"
        )
    whole = {"format": FORMAT, "engine": identity(folder, parse_manifest(folder)), "kept": keep}
    whole.update(machine=machine(), board=board(), versions=runtime(), **measured)
    if keep:
        keep_engine(Path(folder), kept_path(path))
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(whole) + "\n", encoding="utf-8")
    return whole


def kept_path(path: Path) -> Path:
    """The folder of the engine that a baseline keeps."""
    return path.with_suffix(".engine")


def check_kept_path(kept: Path) -> None:
    """UserError if there is something else: it would be replaced."""
    if kept.exists() and not (kept / NAME).is_file():
        raise UserError(f"'{kept}' is no engine's folder, and the baseline's engine would take its place: move it away")


def keep_engine(folder: Path, out: Path) -> None:
    """Copy an engine's folder, without the cache of compiled models."""
    with whole_folder(out) as temporary:
        temporary.rmdir()
        shutil.copytree(str(folder), str(temporary), ignore=shutil.ignore_patterns(".*"))


def runtime() -> Dict[str, str]:
    """The versions of all that an engine's latency depends on beside the engine."""
    from effedge.deploy.native.letterbox_nms.library import native
    from effedge.deploy.timing.machine import versions

    digest = code_digest("effedge.deploy.timing.workload", *(module for module, _ in BACKENDS.values()))
    return {**versions(PACKAGES), OWN_CODE: digest, STEPS: UNCOMPILED if native() is None else COMPILED}


def changes(baseline: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """What of the runtime is another than the baseline's: (name, then, now) of each."""
    then, now = baseline["versions"], runtime()
    rows = [(name, then.get(name, "missing"), now.get(name, "missing")) for name in sorted({*now, *then})]
    return [row for row in rows if row[1] != row[2]]


def circumstances(folder: str, baseline: Dict[str, Any]) -> List[str]:
    """Why the engine in `folder` is held against the reference, or slower here than it could be, a line each."""
    from effedge.deploy.native.cpu_blocks.blocks import front_of

    manifest = parse_manifest(folder)
    _, who = front_of(Path(folder) / manifest["engine"], manifest, 1)
    lines = [f"note: {line}" for line in front_notes(who)]
    lines += [
        f"note: {name} was {then} when the baseline was recorded, now it is {now}"
        for name, then, now in changes(baseline)
    ]
    if "kept_at" not in baseline:
        lines.append("note: the baseline has no engine beside it, and the reference tells less exactly")
    return lines


def read_baseline(path: Path) -> Dict[str, Any]:
    """UserError if there is none, or if it is damaged or of another format."""
    if not path.is_file():
        raise UserError(f"no baseline '{path}': record one first, with --record")
    baseline = read_json(path, "record it again")
    fits = isinstance(baseline, dict) and all(isinstance(baseline.get(name), kind) for name, kind in FIELDS.items())
    if isinstance(baseline, dict) and isinstance(baseline.get("format"), int) and baseline["format"] != FORMAT:
        raise UserError(f"'{path}' is of format {baseline['format']}, this effedge reads {FORMAT}: record it again")
    rows = [*baseline["ms"].values(), *baseline["yardstick_ms"].values()] if fits else []
    if (
        not rows
        or not all(isinstance(row, list) and len(row) == len(baseline["loads"]) for row in rows)
        or not set(baseline["ms"]) == set(baseline["yardstick_ms"])
    ):
        raise UserError(f"'{path}' is no latency baseline: record it again, with --record")
    kept = kept_path(path)
    if baseline.get("kept") and kept.is_dir():
        if read_manifest(kept)["files"] != baseline["engine"].get("files"):
            raise UserError(f"'{kept}' is not the engine that '{path}' was recorded of: record it again")
        baseline["kept_at"] = kept
    return baseline


def check(folder: str, baseline: Dict[str, Any], tolerance: float) -> Dict[str, "Comparison"]:
    """Measure, and measure again before calling it slower: the comparison by step.

    Raises UserError if the baseline is of another machine or of another kind of engine.
    """
    from effedge.deploy.timing import interleaved
    from effedge.deploy.timing.machine import machine

    here = machine()
    for name in MACHINE:
        if here[name] != baseline["machine"].get(name):
            raise UserError(
                f"the baseline was recorded on {name} {baseline['machine'].get(name)}, this is {here[name]}: "
                "record one for this machine"
            )
    found: Dict[str, Comparison] = {}
    if "kept_at" in baseline:
        with tempfile.TemporaryDirectory() as scratch:  # it compiles there, not in the user's repository
            kept = Path(scratch, "kept")
            keep_engine(baseline["kept_at"], kept)
            found = settle(lambda: interleaved.measure_beside(folder, kept), baseline, None, tolerance)
    if not found or changes(baseline):
        by_reference = settle(lambda: interleaved.measure(folder, baseline["reference"]), baseline, baseline, tolerance)
        found.update({f"{step} by the reference" if found else step: one for step, one in by_reference.items()})
    return found


def settle(
    measure: Callable[[], Dict[str, Any]], baseline: Dict[str, Any], against: Optional[Dict[str, Any]], tolerance: float
) -> Dict[str, "Comparison"]:
    """Compare all that was measured so far, until no step can be slower, one is slower twice in succession, or there
    were ATTEMPTS. Slower only at the last of them is not slower."""
    from effedge.deploy.timing.interleaved import joined
    from effedge.deploy.timing.regression import compare

    parts: List[Dict[str, Any]] = []
    found: Dict[str, Comparison] = {}
    for _ in range(ATTEMPTS):
        before = {step for step, one in found.items() if one.slower}
        parts.append(measure())
        if set(parts[-1]["ms"]) != set(baseline["ms"]):
            has = ", ".join(parts[-1]["ms"])
            raise UserError(f"the baseline times {', '.join(baseline['ms'])}, the engine has {has}")
        now = joined(parts)
        found = {step: compare(against, now, step, tolerance) for step in baseline["ms"]}
        if all(one.settled for one in found.values()) or any(found[step].slower for step in before):
            break
    return {
        step: one._replace(slower=False) if one.slower and step not in before else one for step, one in found.items()
    }


def sentence(step: str, found: "Comparison", tolerance: float) -> str:
    """A comparison in a line."""
    if found.slower is None:
        return (
            f"{step}: cannot tell, {found.low:.2f} to {found.high:.2f} times the baseline: the machine is too busy, "
            "run it again"
        )
    verdict = "SLOWER" if found.slower else "ok"
    interval = f"{found.low:.3f} to {found.high:.3f}"
    return (
        f"{step}: {verdict}, {found.ratio:.3f} times the baseline ({interval} by {found.loads} loads; more than "
        f"{1 + tolerance / 100:.3f} is slower)"
    )


def exit_status(comparisons: Dict[str, "Comparison"]) -> int:
    """1 if a step is slower, else 3 if one could not be told, else 0."""
    if any(found.slower for found in comparisons.values()):
        return SLOWER
    return CANNOT_TELL if any(found.slower is None for found in comparisons.values()) else 0
