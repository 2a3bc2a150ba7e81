"""Where INT8 pays on a target: INT8.onnx -> INT8.onnx with the layers in 16 bit for which it is not the faster.

    effedge by-latency INT8.onnx --target cpu --out FASTER.onnx

Layers are tried in groups: first all that read maps of one size, the largest maps first; then by kind and resolution
(all depthwise convolutions on 64 x 64, say), those with the least arithmetic first, as they have the least to gain. An
engine with the group in 16 bit runs in turns with one that has it in INT8 (race.py), both with what was decided before.
A group whose INT8 is not faster by more than the noise goes to 16 bit, which costs no accuracy; where the machine is
too noisy to tell, it stays as it was. Small losses below the noise could add up, so where several groups went in one of
the two rounds the outcome races what it began with, and is dropped if it is the slower one, or if the machine is too
noisy to tell.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effedge.calibration.race import Interval
from effedge.calibration.ranges.source import METADATA
from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.timing.machine import cpu
from effedge.engines.stage import progress_disabled, run_stage
from effedge.engines.targets import TARGETS, Target, check_buildable_here, installed, resolve_target, runs_here

if TYPE_CHECKING:
    import onnx_ir as ir

    from effedge.engines.build_options import Choices

TELLING = 0.06  # the width of an interval beyond which nothing is said
SLACK = 0.005  # what a group may cost by the look of it: a few groups more, and it would be no noise
INT8, FLOAT, UNKNOWN = "int8", "16 bit", "int8, too noisy to tell"

Race = Callable[["ir.Model", "ir.Model"], Interval]  # of the first model's latency over the second's


def keep_what_pays(model: ir.Model, race: Race, *, quiet: bool = False) -> tuple[ir.Model, dict[str, Any]]:
    """Take the groups out of INT8 that are not faster in it.

    Args:
        model: INT8, with shapes and its calibration's report.
        race: how many times as long the first model takes as the second, on the target.

    Returns:
        The model and its report, with "pay" in it: {"groups": [{"group", "layers", "ratio" (16 bit over INT8), "low",
        "high", "kept", "round"}], "rounds": [{"round", "layers" (how many went), "ratio" (the outcome over what it
        began with), "low", "high", "taken" (False if it was dropped)}], "ratio", "low", "high" (of what is returned
        over all of INT8), "taken" (False if that is all of INT8)}.
    """
    from effedge.calibration.search.layer_groups import layer_groups, reading_groups

    report = json.loads(model.metadata_props[METADATA])
    tried: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    current, gone, whole = model, dict[str, str](), Interval(1.0, 1.0, 1.0)
    for name, groups in (("by the size that is read", reading_groups(model)), ("by kind", layer_groups(model))):
        changed, went, rows = one_round(model, current, gone, groups, race, name, quiet)
        tried += rows
        moved = [row for row in rows if row["kept"] == FLOAT]
        if not moved:
            continue
        # One group has had this race.
        found = Interval(*(moved[0][key] for key in Interval._fields)) if len(moved) == 1 else race(changed, current)
        taken = verdict(found) == FLOAT
        rounds.append({"round": name, "layers": len(went), **found._asdict(), "taken": taken})
        if taken:
            whole = found if current is model else race(changed, model)
            current, gone = changed, {**gone, **went}
    report["pay"] = {"groups": tried, "rounds": rounds, **whole._asdict(), "taken": bool(gone)}
    if gone:
        write_report(current, report, gone)
    current.metadata_props[METADATA] = json.dumps(report)
    return current, report


def one_round(
    model: ir.Model,
    current: ir.Model,
    gone: Mapping[str, str],
    groups: Mapping[str, Sequence[str]],
    race: Race,
    name: str,
    quiet: bool,
) -> tuple[ir.Model, dict[str, str], list[dict[str, Any]]]:
    """Try the groups one after the other.

    Args:
        current: `model` without INT8 where the layers are `gone`.

    Returns:
        The model without those that went as well, why each did, and how each group did (a row of "groups").
    """
    from tqdm import tqdm

    from effedge.calibration.graph.unquantize import int8_layers, unquantize

    total = len(int8_layers(model))
    went: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for group, members in tqdm(groups.items(), desc=f"racing {name}", unit="group", disable=progress_disabled(quiet)):
        layers = [layer for layer in members if layer not in gone]
        if not layers or len(gone) + len(went) + len(layers) == total:
            continue  # the last one in INT8: without it there is nothing to build in INT8
        candidate = unquantize(model, {*gone, *went, *layers})
        found = race(candidate, current)
        kept = verdict(found)
        rows.append({"group": group, "layers": layers, **found._asdict(), "kept": kept, "round": name})
        if kept == FLOAT:
            why = f"INT8 is not faster here: {group} take {found.ratio:.3f} times as long in 16 bit"
            went.update(dict.fromkeys(layers, f"{why} ({found.low:.3f} to {found.high:.3f}, of the whole engine)"))
            current = candidate
    return current, went, rows


def verdict(found: Interval) -> str:
    """What becomes of a group, by how much longer the engine takes with it in 16 bit."""
    if found.low > 1 or (found.ratio > 1 + SLACK and found.high - found.low <= TELLING):
        return INT8
    return FLOAT if found.high - found.low <= TELLING or found.high < 1 else UNKNOWN


def write_report(changed: ir.Model, report: dict[str, Any], gone: dict[str, str]) -> None:
    """Bring a report up to date with the layers that have gone to 16 bit, by reason."""
    from effedge.calibration.graph.macs import macs
    from effedge.calibration.graph.unquantize import int8_layers, int8_tensors

    work, left = macs(changed), int8_layers(changed)
    report["float_layers"].update(gone)
    report["int8_layers"] = len(left)
    report["int8_macs"] = round(sum(work[node.name or ""] for node in left) / max(1, sum(work.values())), 4)
    tensors = int8_tensors(changed)
    report["thresholds"] = {name: value for name, value in report["thresholds"].items() if name in tensors}


def pay_stage(int8: Path, out: Path, target: Target, *, quiet: bool = False) -> bool:
    """The stage: it is keyed by the machine as well. Returns True if it ran.

    Raises:
        UserError: no INT8 model with a report, a target whose engines do not run here.
    """
    check_runs_here(target)
    distribution = installed(target.distributions)

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.race import race_engines
        from effedge.calibration.report import read_report

        read_report(int8)
        model = onnx_file.load(int8)

        with tempfile.TemporaryDirectory() as scratch:
            built: list[tuple[ir.Model, Path]] = []

            def engine_of(wanted: ir.Model) -> Path:
                found = next((folder for one, folder in built if one is wanted), None)
                if found is None:
                    found = build(wanted, Path(scratch) / str(len(built)), target, choices_of(built))
                    built.append((wanted, found))
                return found

            changed, report = keep_what_pays(
                model, lambda first, second: race_engines(engine_of(first), engine_of(second)), quiet=quiet
            )
        onnx_file.save(changed, temporary)
        print(describe(report), flush=True)

    return run_stage(
        "pay",
        out,
        inputs={"int8": int8},
        options={"target": target.name, "machine": cpu()},
        tools=[distribution, "onnx-ir"] if distribution else ["onnx-ir"],
        code=[__name__],
        make=make,
    )


def check_runs_here(target: Target) -> None:
    """UserError if engines for the target cannot run on this machine."""
    check_buildable_here(target)
    if not runs_here(target):
        raise UserError(
            f"what pays on {target.name} is measured there, and no NVIDIA GPU answers here: run this on the device, or "
            "leave BY_LATENCY (--by-latency) out"
        )


def choices_of(built: Sequence[tuple[ir.Model, Path]]) -> Choices:
    """The form of swish and the length of the front of the engines so far, so that all have the same and each is raced
    once."""
    from effedge.deploy.runtime.manifest import parse_manifest
    from effedge.engines.build_options import AUTO, OFF, Choices

    if not built:
        return Choices()
    manifest = parse_manifest(built[0][1])
    blocks = (manifest["backend"].get("front") or {}).get("blocks", OFF)
    return Choices(swish=manifest.get("swish", {}).get("form", AUTO), front=str(blocks))


def build(model: ir.Model, folder: Path, target: Target, choices: Choices) -> Path:
    """An INT8 engine in `folder`, which is made."""
    from effedge.calibration.graph import onnx_file
    from effedge.engines.build import build_engine

    onnx = folder.with_suffix(".onnx")
    onnx_file.save(model, onnx)
    folder.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):  # a line each
        build_engine(onnx, folder, precision="int8", target=target, choices=choices, quiet=True)
    return folder


def describe(report: dict[str, Any]) -> str:
    """The outcome in lines: a group each, then the whole."""
    pay = report["pay"]
    lines = [
        f"pay: {row['group']} ({len(row['layers'])} layers): in 16 bit {row['ratio']:.3f} times as long "
        f"({row['low']:.3f} to {row['high']:.3f}): {row['kept']}"
        for row in pay["groups"]
    ]
    for row in pay["rounds"]:
        outcome = "they go" if row["taken"] else "they stay in INT8"
        span = f"{row['ratio']:.3f} times as long as without ({row['low']:.3f} to {row['high']:.3f})"
        lines.append(f"pay: {row['round']}, with all of these {row['layers']} layers in 16 bit: {span}: {outcome}")
    if pay["taken"]:
        span = f"{pay['ratio']:.3f} times as long as all of INT8 ({pay['low']:.3f} to {pay['high']:.3f})"
        lines.append(f"pay: {span}; {100 * report['int8_macs']:.1f}% of work in INT8")
    unknown = sum(row["kept"] == UNKNOWN for row in pay["groups"])
    if unknown:
        lines.append(
            f"pay: the machine was too noisy to tell of {unknown} groups, which stay in INT8: delete what was made and "
            "run it again when the machine is quiet"
        )
    elif not pay["rounds"]:
        lines.append("pay: INT8 pays for every group")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(prog="effedge by-latency", description=__doc__)
    parser.add_argument("int8", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.onnx")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    target = resolve_target(choose("target", given.target, ["auto", *TARGETS]))
    if not given.int8.is_file():
        raise UserError(f"no ONNX file at '{given.int8}': give the int8.onnx that `make calibrate` wrote")
    pay_stage(given.int8, given.out, target, quiet=given.quiet)
