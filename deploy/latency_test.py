"""Tests that an engine is as fast as its baseline.

    effedge latency-test ENGINE --baseline FILE [--record]

--record measures the engine, writes the baseline, a small JSON file for your own repository, and keeps the engine
beside it (d0.json and the folder d0.engine). Without it the engine is compared with the kept one, and the exit status
is 1 if it is slower by more than the tolerance. Their runs are interleaved, and an engine that looks slower, or may be
slower, is measured again before the test fails, so that a busy machine is not taken for a slow engine
(deploy/timing/comparison.py). The machine must be the one that recorded, or one like it. Exit status 3: the machine was
too busy to tell.

A newer runtime (OpenVINO, NumPy, effedge, ...) slows both engines alike. So where a version of the runtime is another
than the baseline's, and where no engine was kept, the engine is also compared with a fixed reference workload, whose
latencies are in the baseline. That is less exact.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple, TypedDict

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.code_digest import code_digest
from effedge.deploy.common.files import atomic_file, atomic_folder, check_output_path, read_json
from effedge.deploy.common.paths import no_dash
from effedge.deploy.latency import PACKAGES, UNCOMPILED, Identity, first_blocks_notes, identity
from effedge.deploy.native.compiled_library import COMPILED
from effedge.deploy.runtime.backends import BACKENDS, first_blocks_computed_by
from effedge.deploy.runtime.manifest import NAME, parse_manifest, read_manifest
from effedge.deploy.timing.baseline import wrong_field
from effedge.deploy.timing.board import Board, board
from effedge.deploy.timing.board_notes import notes

if TYPE_CHECKING:
    from effedge.deploy.timing.interleaved import Measurement, ReferenceSize
    from effedge.deploy.timing.machine import Machine
    from effedge.deploy.timing.regression import Verdict

FORMAT = 5
ATTEMPTS = 4
TOLERANCE = 5.0  # per cent
MOST_TOLERANCE = 1000.0  # times the baseline
SLOWER, CANNOT_TELL = 1, 3
OWN_CODE, STEPS = "effedge's runtime", "letterbox and NMS"  # in "versions"


class KeptEngine(TypedDict, total=False):
    """The folder of a baseline's engine, where that was kept and is still there; it is not in the file."""

    kept_at: Path


class Baseline(KeptEngine):
    """A baseline: an engine's measurement beside the reference workload, and all that it depends on.

    `kept`: the engine was kept beside the baseline. `versions`: of the runtime. The last three are a Measurement's.
    """

    format: int
    engine: Identity
    kept: bool
    machine: "Machine"
    board: Board
    versions: Dict[str, str]
    reference: "ReferenceSize"
    loads: List[int]
    yardstick_ms: Dict[str, List[float]]
    ms: Dict[str, List[float]]


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="an engine's folder, such as build/d0-digits/int8-cpu")
    parser.add_argument("--baseline", metavar="FILE", type=no_dash, required=True, help="the baseline, a .json file")
    parser.add_argument("--record", action="store_true", help="write the baseline")
    parser.add_argument("--no-engine", action="store_true", help="with --record: do not keep the engine beside it")
    help = f"how much slower is no regression, in per cent (default: {TOLERANCE:g})"
    parser.add_argument("--tolerance", metavar="PERCENT", type=float, default=TOLERANCE, help=help)
    args = parser.parse_args()
    if args.no_engine and not args.record:
        parser.error("--no-engine goes with --record")
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
    verdicts = check(args.engine, baseline, args.tolerance / 100)
    for line in notes(baseline.get("board"), before, board()) + circumstances(args.engine, baseline):
        print(line)
    for step, verdict in verdicts.items():
        print(sentence(step, verdict, args.tolerance))
    status = exit_status(verdicts)
    if status:
        sys.exit(status)


def record(folder: str, path: Path, keep: bool = True) -> Baseline:
    """Measures an engine and writes the baseline, and beside it the engine if it is to be kept.

    Raises UserError if the machine was too busy for a baseline.
    """
    from effedge.deploy.timing.interleaved import measure
    from effedge.deploy.timing.machine import machine
    from effedge.deploy.timing.regression import compare
    from effedge.deploy.timing.workload import ENGINE

    check_output_path(path)
    if keep:
        check_kept_path(kept_path(path))
    measurement = measure(folder, repeats=2)  # its error is part of all later tests
    verdict = compare(measurement, measurement, ENGINE, 0)
    if verdict.slower is None:
        raise UserError(
            f"{verdict.loads} loads of the engine are from {verdict.low:.2f} to {verdict.high:.2f} times their mean: "
            "the machine is too busy to record a baseline"
        )
    baseline: Baseline = {
        "format": FORMAT,
        "engine": identity(folder, parse_manifest(folder)),
        "kept": keep,
        "machine": machine(),
        "board": board(),
        "versions": runtime(),
        **measurement,
    }
    if keep:
        keep_engine(Path(folder), kept_path(path))
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(baseline) + "\n", encoding="utf-8")
    return baseline


def kept_path(path: Path) -> Path:
    """Returns the folder of the engine that a baseline keeps."""
    return path.with_suffix(".engine")


def check_kept_path(kept: Path) -> None:
    """Raises UserError if the path is no engine's folder: it would be replaced."""
    if kept.exists() and not (kept / NAME).is_file():
        raise UserError(f"'{kept}' is no engine's folder, and the baseline's engine would take its place: move it away")


def keep_engine(folder: Path, out: Path) -> None:
    """Copies an engine's folder, without the cache of compiled models."""
    with atomic_folder(out) as temporary:
        temporary.rmdir()
        shutil.copytree(str(folder), str(temporary), ignore=shutil.ignore_patterns(".*"))


def runtime() -> Dict[str, str]:
    """Reads the versions of all that an engine's latency depends on beside the engine."""
    from effedge.deploy.native.letterbox_nms.library import load_letterbox_nms
    from effedge.deploy.timing.machine import versions

    digest = code_digest("effedge.deploy.timing.workload", *(module for module, _ in BACKENDS.values()))
    return {**versions(PACKAGES), OWN_CODE: digest, STEPS: UNCOMPILED if load_letterbox_nms() is None else COMPILED}


def changes(baseline: Baseline) -> List[Tuple[str, str, str]]:
    """Compares the runtime with the baseline's: (name, version then, version now) where they differ."""
    then, now = baseline["versions"], runtime()
    rows = [(name, then.get(name, "missing"), now.get(name, "missing")) for name in sorted({*now, *then})]
    return [row for row in rows if row[1] != row[2]]


def circumstances(folder: str, baseline: Baseline) -> List[str]:
    """Tells why the engine in `folder` is compared with the reference, or slower here than it could be."""
    computed_by = first_blocks_computed_by(folder, parse_manifest(folder))
    lines = [f"note: {line}" for line in first_blocks_notes(computed_by)]
    lines += [
        f"note: {name} was {then} when the baseline was recorded, now it is {now}"
        for name, then, now in changes(baseline)
    ]
    if "kept_at" not in baseline:
        lines.append("note: the baseline has no engine beside it, and the reference tells less exactly")
    return lines


def read_baseline(path: Path) -> Baseline:
    """Reads a baseline. Raises UserError if there is none, or if it is damaged or of another format."""
    if not path.is_file():
        raise UserError(f"no baseline '{path}': record one first, with --record")
    content = read_json(path, "record it again")
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is no latency baseline: record it again, with --record")
    number = content.get("format")
    if number != FORMAT and isinstance(number, int):
        raise UserError(f"'{path}' is of format {number}, this effedge reads {FORMAT}: record it again")
    wrong = "format" if number != FORMAT else wrong_field(content)
    if wrong is not None:
        raise UserError(f"'{path}' is no latency baseline (its '{wrong}' is missing or wrong): record it again")
    content.pop("kept_at", None)  # only this function says where it is
    baseline: Baseline = content  # type: ignore[assignment]  # its fields are as checked above
    kept = kept_path(path)
    if baseline.get("kept") and kept.is_dir():
        if read_manifest(kept)["files"] != baseline["engine"]["files"]:
            raise UserError(f"'{kept}' is not the engine that '{path}' was recorded of: record it again")
        baseline["kept_at"] = kept
    return baseline


def check(folder: str, baseline: Baseline, tolerance: float) -> Dict[str, "Verdict"]:
    """Measures an engine, several times before it is called slower, and returns the verdicts by step.

    Raises UserError if the baseline is of another machine or of another kind of engine, or the tolerance is none.
    """
    from effedge.deploy.timing import interleaved

    if not 0 <= tolerance < MOST_TOLERANCE:
        raise UserError(f"tolerance {100 * tolerance:g} (--tolerance): expected 0 or more per cent")
    check_machine(baseline)
    verdicts: Dict[str, Verdict] = {}
    if "kept_at" in baseline:
        with tempfile.TemporaryDirectory() as scratch:  # it compiles there, not in the user's repository
            kept = Path(scratch, "kept")
            keep_engine(baseline["kept_at"], kept)
            verdicts = settle(lambda: interleaved.measure_beside(folder, str(kept)), baseline, None, tolerance)
    if not verdicts or changes(baseline):
        by_reference = settle(lambda: interleaved.measure(folder, baseline["reference"]), baseline, baseline, tolerance)
        suffix = " by the reference" if verdicts else ""
        verdicts.update({step + suffix: verdict for step, verdict in by_reference.items()})
    return verdicts


def check_machine(baseline: Baseline) -> None:
    """Raises UserError if the baseline's machine has another CPU, or cores, than this one."""
    from effedge.deploy.timing.machine import machine

    here, recorded = machine(), baseline["machine"]
    for name, then, now in (
        ("cpu", recorded.get("cpu"), here["cpu"]),
        ("cores", recorded.get("cores"), here["cores"]),
    ):
        if then != now:
            raise UserError(f"the baseline was recorded on {name} {then}, this is {now}: record one for this machine")


def settle(
    measure: Callable[[], "Measurement"], baseline: Baseline, against: Optional["Measurement"], tolerance: float
) -> Dict[str, "Verdict"]:
    """Measures again and again, and judges all runs so far, until the verdicts are sure.

    They are sure when no step can be slower, or a step is slower twice in succession. After ATTEMPTS it ends anyway;
    then a step that is slower only at the last attempt is not slower.

    Args:
        against: the measurement to compare with; None where the yardstick is the baseline's engine.
    """
    from effedge.deploy.timing.interleaved import join
    from effedge.deploy.timing.regression import compare

    parts: List[Measurement] = []
    verdicts: Dict[str, Verdict] = {}
    for _ in range(ATTEMPTS):
        slower_before = {step for step, verdict in verdicts.items() if verdict.slower}
        parts.append(measure())
        if set(parts[-1]["ms"]) != set(baseline["ms"]):
            has = ", ".join(parts[-1]["ms"])
            raise UserError(f"the baseline times {', '.join(baseline['ms'])}, the engine has {has}")
        now = join(parts)
        verdicts = {step: compare(against, now, step, tolerance) for step in baseline["ms"]}
        if all(verdict.settled for verdict in verdicts.values()) or any(
            verdicts[step].slower for step in slower_before
        ):
            break
    return {
        step: verdict._replace(slower=False) if verdict.slower and step not in slower_before else verdict
        for step, verdict in verdicts.items()
    }


def sentence(step: str, verdict: "Verdict", tolerance: float) -> str:
    """Writes a verdict as a line."""
    if verdict.slower is None:
        return (
            f"{step}: cannot tell, {verdict.low:.2f} to {verdict.high:.2f} times the baseline: the machine is too "
            "busy, run it again"
        )
    return (
        f"{step}: {'SLOWER' if verdict.slower else 'ok'}, {verdict.ratio:.3f} times the baseline ({verdict.low:.3f} to "
        f"{verdict.high:.3f} by {verdict.loads} loads; more than {1 + tolerance / 100:.3f} is slower)"
    )


def exit_status(verdicts: Dict[str, "Verdict"]) -> int:
    """1 if a step is slower, else 3 if the machine was too busy to tell of one, else 0."""
    if any(verdict.slower for verdict in verdicts.values()):
        return SLOWER
    return CANNOT_TELL if any(verdict.slower is None for verdict in verdicts.values()) else 0
