"""Chooses the layers of an INT8 ONNX that stay in INT8 by their latency on a target; the others go to 16 bit.

    effedge by-latency INT8.onnx --target cpu --out FASTER.onnx

Layers are tried in groups: first all that read maps of one size, the largest maps first; then by kind and resolution
(all depthwise convolutions on 64 x 64, say), those with the least arithmetic first, as they have the least to gain. An
engine with the group in 16 bit is timed interleaved with an engine that has it in INT8 (deploy/timing/interleaved.py),
both with what was decided before. A group whose INT8 is not faster by more than the noise goes to 16 bit, which costs
no accuracy; where the machine is too noisy to tell, it stays as it was. Small losses below the noise could add up. So
where several groups went in one of the two rounds, the round's outcome is timed against the model before the round, and
is dropped if it is slower, or if the machine is too noisy to tell.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.calibration.report import attach_report
from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.contracts import CALIBRATION_KEY, CalibrationReport, GroupRace, LatencyRatio, RoundRace
from effedge.deploy.common.messages import log, silence, track
from effedge.deploy.common.paths import output_file
from effedge.deploy.timing import interleaved
from effedge.deploy.timing.comparison import Interval
from effedge.deploy.timing.machine import cpu
from effedge.engines.stage import run_stage
from effedge.engines.targets import TARGETS, TYPED, Target, check_buildable_here, installed, resolve_target, runs_here

if TYPE_CHECKING:
    import onnx_ir as ir

    from effedge.engines.build_options import BuildOptions

WIDEST = 0.06  # an interval wider than this says nothing
SLACK = 0.005  # the loss of a group that looks like noise: of a few groups more it would be none
INT8, FLOAT, UNKNOWN = "int8", "16 bit", "int8, too noisy to tell"

Race = Callable[["ir.Model", "ir.Model"], Interval]  # of the first model's latency over the second's


def choose_by_latency(model: ir.Model, race: Race) -> tuple[ir.Model, CalibrationReport]:
    """Takes the groups out of INT8 that are not faster in INT8.

    Args:
        model: INT8, with shapes and its calibration's report.
        race: measures how many times as long the first model takes as the second, on the target.

    Returns:
        The model and its report, with "by_latency" in it (contracts.LatencyReport).
    """
    from effedge.calibration.search.layer_groups import layer_groups, reading_groups

    report: CalibrationReport = json.loads(model.metadata_props[CALIBRATION_KEY])
    group_races: list[GroupRace] = []
    round_races: list[RoundRace] = []
    current, float_layers, total = model, dict[str, str](), Interval(1.0, 1.0, 1.0)
    for name, groups in (("by the size that is read", reading_groups(model)), ("by kind", layer_groups(model))):
        candidate, moved, rows = race_groups(model, current, float_layers, groups, race, name)
        group_races += rows
        slower = [row for row in rows if row["kept"] == FLOAT]
        if not slower:
            continue
        if len(slower) == 1:  # the outcome of the round was timed as this group's
            interval = Interval(slower[0]["ratio"], slower[0]["low"], slower[0]["high"])
        else:
            interval = race(candidate, current)
        taken = verdict(interval) == FLOAT
        round_races.append({"round": name, "layers": len(moved), **fields(interval), "taken": taken})
        if taken:
            total = interval if current is model else race(candidate, model)
            current, float_layers = candidate, {**float_layers, **moved}
    report["by_latency"] = {"groups": group_races, "rounds": round_races, **fields(total), "taken": bool(float_layers)}
    if float_layers:
        update_report(report, current, float_layers)
    attach_report(current, report)
    return current, report


def race_groups(
    model: ir.Model,
    current: ir.Model,
    float_layers: Mapping[str, str],
    groups: Mapping[str, Sequence[str]],
    race: Race,
    round_name: str,
) -> tuple[ir.Model, dict[str, str], list[GroupRace]]:
    """Races the groups one after the other, each in 16 bit against INT8.

    Args:
        current: `model` with `float_layers` in 16 bit.

    Returns:
        The model with the groups in 16 bit that are not faster in INT8, the reason for each of their layers, and the
        outcome of each race.
    """
    from effedge.calibration.graph.unquantize import int8_layers, unquantize

    total = len(int8_layers(model))
    moved: dict[str, str] = {}
    rows: list[GroupRace] = []
    for group, members in track(groups.items(), desc=f"racing {round_name}", unit="group"):
        layers = [layer for layer in members if layer not in float_layers]
        if not layers or len(float_layers) + len(moved) + len(layers) == total:
            continue  # the last group in INT8: without it there is nothing to build in INT8
        candidate = unquantize(model, {*float_layers, *moved, *layers})
        interval = race(candidate, current)
        kept = verdict(interval)
        rows.append({"group": group, "layers": layers, **fields(interval), "kept": kept, "round": round_name})
        if kept == FLOAT:
            why = f"INT8 is not faster here: {group} take {interval.ratio:.3f} times as long in 16 bit"
            reason = f"{why} ({interval.low:.3f} to {interval.high:.3f}, of the whole engine)"
            moved.update(dict.fromkeys(layers, reason))
            current = candidate
    return current, moved, rows


def fields(interval: Interval) -> LatencyRatio:
    """Returns an interval as it is in the report."""
    return {"ratio": interval.ratio, "low": interval.low, "high": interval.high}


def verdict(interval: Interval) -> str:
    """Returns the precision of a group, by how many times as long the engine takes with it in 16 bit."""
    if interval.low > 1 or (interval.ratio > 1 + SLACK and interval.high - interval.low <= WIDEST):
        return INT8
    return FLOAT if interval.high - interval.low <= WIDEST or interval.high < 1 else UNKNOWN


def update_report(report: CalibrationReport, changed: ir.Model, float_layers: Mapping[str, str]) -> None:
    """Updates a report for the layers that have gone to 16 bit, by their reasons."""
    from effedge.calibration.graph.macs import macs
    from effedge.calibration.graph.unquantize import int8_layers, int8_tensors

    work, left = macs(changed), int8_layers(changed)
    report["float_layers"].update(float_layers)
    report["int8_layers"] = len(left)
    report["int8_macs"] = round(sum(work[node.name or ""] for node in left) / max(1, sum(work.values())), 4)
    tensors = int8_tensors(changed)
    report["thresholds"] = {name: value for name, value in report["thresholds"].items() if name in tensors}


def by_latency_stage(int8: Path, out: Path, target: Target) -> bool:
    """Runs the stage, which is keyed by the machine as well. Returns True if it ran.

    Raises:
        UserError: no INT8 model with a report, a target whose engines do not run here.
    """
    check_runs_here(target)
    distribution = installed(target.distributions)

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.report import read_report

        read_report(int8)
        model = onnx_file.load(int8)
        onnx_file.check_float32_scales(model, int8)

        with tempfile.TemporaryDirectory() as scratch:
            built: list[tuple[ir.Model, Path]] = []

            def engine_of(wanted: ir.Model) -> Path:
                engine = next((folder for candidate, folder in built if candidate is wanted), None)
                if engine is None:
                    engine = build(wanted, Path(scratch) / str(len(built)), target, build_options_of(built))
                    built.append((wanted, engine))
                return engine

            changed, report = choose_by_latency(
                model, lambda first, second: interleaved.compare_engines(engine_of(first), engine_of(second))
            )
        onnx_file.save(changed, temporary)
        log.info(describe(report))

    return run_stage(
        "by latency",
        out,
        inputs={"int8": int8},
        options={"target": target.name, "machine": cpu()},
        tools=[distribution, "onnx-ir"] if distribution else ["onnx-ir"],
        code=[__name__],
        make=make,
    )


def check_runs_here(target: Target) -> None:
    """Raises UserError if engines for the target cannot run on this machine."""
    check_buildable_here(target)
    if not runs_here(target):
        raise UserError(
            f"which layers are faster in INT8 on {target.name} is measured there, and no NVIDIA GPU answers here: run "
            "this on the device, or leave BY_LATENCY (--by-latency) out"
        )


def build_options_of(built: Sequence[tuple[ir.Model, Path]]) -> BuildOptions:
    """Returns what the builder chose for the first engine (the precision of its float parts, the form of swish, the
    number of CPU blocks), so that all engines have the same and each choice is raced once."""
    from effedge.deploy.runtime.manifest import parse_manifest
    from effedge.engines.build_options import AUTO, FP16, FP32, OFF, BuildOptions

    if not built:
        return BuildOptions()
    manifest = parse_manifest(built[0][1])
    backend = manifest["backend"]
    float_parts = AUTO
    if "float_parts" in manifest:
        float_parts = FP32 if manifest["float_parts"]["precision"] == "f32" else FP16
    return BuildOptions(
        float_parts=float_parts,
        swish=manifest["swish"]["form"] if "swish" in manifest else AUTO,
        cpu_blocks=str(backend["cpu_blocks"]["blocks"]) if "cpu_blocks" in backend else OFF,
    )


def build(model: ir.Model, folder: Path, target: Target, build_options: BuildOptions) -> Path:
    """Builds an INT8 engine in `folder`, which is made; for a typed target with FP16 around the INT8."""
    from effedge.calibration.fp16.convert import to_fp16
    from effedge.calibration.graph import onnx_file
    from effedge.engines.build import build_engine

    if target.precision_by == TYPED:
        model, _ = to_fp16(model)
    onnx = folder.with_suffix(".onnx")
    onnx_file.save(model, onnx)
    folder.mkdir()
    with silence():
        build_engine(onnx, folder, precision="int8", target=target, build_options=build_options)
    return folder


def describe(report: CalibrationReport) -> str:
    """Returns the outcome in lines: a line for each group, then for each round, then for all of the model."""
    outcome = report["by_latency"]
    lines = [
        f"{row['group']} ({len(row['layers'])} layers): in 16 bit {row['ratio']:.3f} times as long "
        f"({row['low']:.3f} to {row['high']:.3f}): {row['kept']}"
        for row in outcome["groups"]
    ]
    for row in outcome["rounds"]:
        decision = "they go" if row["taken"] else "they stay in INT8"
        span = f"{row['ratio']:.3f} times as long as without ({row['low']:.3f} to {row['high']:.3f})"
        lines.append(f"{row['round']}, with all of these {row['layers']} layers in 16 bit: {span}: {decision}")
    if outcome["taken"]:
        span = f"{outcome['ratio']:.3f} times as long as all of INT8 ({outcome['low']:.3f} to {outcome['high']:.3f})"
        lines.append(f"{span}; {100 * report['int8_macs']:.1f}% of work in INT8")
    unknown = sum(row["kept"] == UNKNOWN for row in outcome["groups"])
    if unknown:
        lines.append(
            f"the machine was too noisy to tell of {unknown} groups, which stay in INT8: delete what was made and "
            "run it again when the machine is quiet"
        )
    elif not outcome["rounds"]:
        lines.append("INT8 is faster for every group")
    return "\n".join(f"by latency: {line}" for line in lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("int8", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    parser.add_argument("--out", type=output_file, required=True, metavar="OUT.onnx")
    parser.add_quiet()
    arguments = parser.parse_args()
    target = resolve_target(choose("target", arguments.target, ["auto", *TARGETS]))
    if not arguments.int8.is_file():
        raise UserError(f"no ONNX file at '{arguments.int8}': give the int8.onnx that `make calibrate` wrote")
    by_latency_stage(arguments.int8, arguments.out, target)
