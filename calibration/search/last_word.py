"""Judges an INT8 model on samples that none of its choices has seen, and warns where INT8 is worth nothing.

The trials choose thresholds, layers and corrections by the output error on some samples, so it is smaller there than
on others.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from effedge.calibration.ranges.samples import Samples
from effedge.calibration.report import attach_report
from effedge.calibration.search.isolate_group import isolate_group
from effedge.calibration.search.trials import Trials
from effedge.deploy.common.contracts import CalibrationReport
from effedge.deploy.common.messages import log, track

if TYPE_CHECKING:
    from effedge.calibration.post_training import PostTrainingQuantizer

SAMPLES = (4, 16)  # at least, and at most where the trials have no more
WORTHLESS = 0.25  # an output error: a quarter of what the outputs say is noise
WORTHLESS_BLOCK = 0.5  # that of a block of the outputs
MOST_ISOLATED = 24  # groups that are tried for the worst layers
NAMED = 3  # of the worst layers


class HeldOut(NamedTuple):
    """Trials on samples that choose nothing; `fitted` says that weights were fitted to them."""

    trials: Trials
    fitted: bool


def hold_out(model: ir.Model, samples: Samples, trials: Trials, fitted: Collection[str]) -> HeldOut | None:
    """Returns trials on samples beside those of `trials`: if possible on some that weights were not fitted to either.

    Args:
        fitted: the names of the samples that weights were fitted to.

    Returns:
        None if there are too few samples.
    """
    others = samples.without(len(trials.feeds))
    unseen = others.select([index for index, name in enumerate(others.names) if name not in set(fitted)])
    chosen = unseen if len(unseen) >= SAMPLES[0] else others
    if len(chosen) < SAMPLES[0]:
        return None
    held_out = chosen.spread(max(SAMPLES[1], len(trials.feeds)))
    return HeldOut(Trials(model, held_out, choice=trials.choice), fitted=len(unseen) < SAMPLES[0])


def say_last_word(
    quantizer: PostTrainingQuantizer, changed: ir.Model, report: CalibrationReport
) -> tuple[ir.Model, CalibrationReport]:
    """Adds the output error on held-out samples to an INT8 model's report, and warns if the model is worth nothing.

    Returns:
        The model and its report, both changed in place.
    """
    held_out = quantizer.held_out
    blocks = (quantizer.trials if held_out is None else held_out.trials).block_errors(changed)
    error = sum(blocks.values()) / len(blocks)
    report["held_out"] = None
    if held_out is not None:
        report["held_out"] = {
            "samples": len(held_out.trials.feeds),
            "fitted": held_out.fitted,
            "output_error": round(error, 6),
            "blocks": {name: round(value, 6) for name, value in blocks.items()},
        }
    attach_report(changed, report)
    worst = max(blocks, key=blocks.__getitem__)
    if error > WORTHLESS or blocks[worst] > WORTHLESS_BLOCK:
        where = f"; '{worst}' alone: {blocks[worst]:.2g}" if len(blocks) > 1 else ""
        log.warning(
            f"warning: this INT8 model is worth little: its output error is {error:.2g}{where} (0 is the float model, "
            f"1 a guess); most by themselves lose {worst_layers(quantizer, changed, report)}; calibrate on data like "
            "that which the model will see, allow more in 16 bit (--float-share), or build fp16"
        )
    return changed, report


def worst_layers(quantizer: PostTrainingQuantizer, changed: ir.Model, report: CalibrationReport) -> str:
    """Returns a text like "'conv' (0.3), 'fc' (0.2)": the layers with the largest output error by themselves in INT8.

    The sensitivity ranks activations only; here the weights count too.
    """
    rows = [row for row in report["sensitivity"] if set(row["tensors"]) & set(report["thresholds"])][:MOST_ISOLATED]
    errors = []
    for row in track(rows, desc="worst layers", unit="group"):
        layers = [layer for layer in row["layers"] if layer not in report["float_layers"]]
        isolated = isolate_group(quantizer.equalized, changed, row["tensors"])
        errors.append((quantizer.trials.output_error(isolated), layers))
    errors.sort(key=lambda row: -row[0])
    return ", ".join(
        f"'{layers[0]}'{f' and {len(layers) - 1} beside it' if len(layers) > 1 else ''} ({error:.2g})"
        for error, layers in errors[:NAMED]
        if layers and error >= errors[0][0] / 4
    )


def on_others(report: CalibrationReport) -> str:
    """Returns the part of the report's line that is about held-out samples."""
    if "held_out" not in report:
        return ""
    held_out = report["held_out"]
    if held_out is None:
        return " (on the samples that chose it: too few are left to judge it by)"
    worst = max(held_out["blocks"], key=held_out["blocks"].__getitem__)
    block = f", worst '{worst}' {held_out['blocks'][worst]:.2g}" if len(held_out["blocks"]) > 1 else ""
    fitted = " (but by which its weights were rounded)" if held_out["fitted"] else ""
    return f", {held_out['output_error']:.2g}{block} on {held_out['samples']} samples that no trial has seen{fitted}"
