"""Quantizes within a budget: finds the fewest scale groups in 16 bit with which accuracy falls no more than allowed.

The groups leave INT8 in the order of `precision_choice.ranking`, so the search is for a number, by bisection, which
assumes that one more group in 16 bit does not make the model worse. Every attempt is a complete INT8 model. The
settings' share of arithmetic is only where the search begins: the budget decides.

A drop is only worth as much as the float model's own figure. Where INT8 is clearly better than that, the float model
fails on this data and the budget bounds nothing; a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import onnx_ir as ir

from effedge.calibration.post_training import PostTrainingQuantizer
from effedge.calibration.report import attach_report
from effedge.calibration.search.precision_choice import ranking
from effedge.calibration.search.threshold_search import error_shares
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import BudgetAttempt, CalibrationReport
from effedge.deploy.common.messages import log, track

ROUNDING = 1e-9  # of two figures' difference
TOO_GOOD = 1.05  # times the float model's accuracy: more than chance with a few hundred images


def meet_budget(
    quantizer: PostTrainingQuantizer,
    accuracy: Callable[[ir.Model], float],
    max_drop: float,
    unit: str = "points",
) -> tuple[ir.Model, CalibrationReport]:
    """Returns the INT8 model with the fewest groups in 16 bit that is at most `max_drop` below the float model.

    Args:
        accuracy: of the float model or an INT8 model; more is better.
        max_drop: in the unit of `accuracy`, which `unit` names.

    Returns:
        The model and its report, as PostTrainingQuantizer.build, with "budget" in it (contracts.BudgetReport).

    Raises:
        UserError: the budget cannot be met.
    """
    reference = accuracy(quantizer.model)
    attempts: list[BudgetAttempt] = []
    order = list(range(len(quantizer.plan.groups)))
    # Model, report and accuracy of the attempts that meet the budget; the last of them has the fewest groups.
    met: list[tuple[ir.Model, CalibrationReport, float]] = []

    def meets(count: int) -> bool:
        model, report = quantizer.build(order[:count])
        reached = accuracy(model)
        attempts.append({"groups": count, "int8_macs": report["int8_macs"], "accuracy": round(reached, 6)})
        log.info(f"budget: {count} groups in 16 bit: {in_words(attempts[-1], reference, unit)}")
        if reference - reached > max_drop + ROUNDING:
            return False
        met[:] = [(model, report, reached)]
        return True

    if not meets(0):
        quantizer.gains = measured_gains(quantizer)
        order = ranking(quantizer.gains, quantizer.costs)
        most = most_groups(quantizer, order)
        low, high = 0, min(max(1, len(quantizer.choose_float_groups())), most)
        while low < high and not meets(high):
            low, high = high, min(2 * high, most)
        if low == high:
            raise_unreachable(attempts, reference, max_drop, unit)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(middle) else (middle, high)
    [(model, report, reached)] = met
    float_fails = reference >= 0 and reached > TOO_GOOD * reference
    report["budget"] = {
        "max_drop": max_drop,
        "unit": unit,
        "float": round(reference, 6),
        "int8": round(reached, 6),
        "float_fails": float_fails,
        "attempts": attempts,
    }
    attach_report(model, report)
    if float_fails:
        log.warning(
            f"note: INT8 reaches {reached:.6g} {unit}, the float model only {reference:.6g}: it fails on this data, so "
            "the drop says nothing; look at the float model there, or measure on other images"
        )
    return model, report


def measured_gains(quantizer: PostTrainingQuantizer) -> list[float]:
    """Returns the quantizer's gains. Measures them where the threshold search left them out, because all of INT8
    together has a small output error."""
    if any(quantizer.gains):
        return quantizer.gains
    usable = {group: value for group, value in enumerate(quantizer.thresholds) if value > 0}
    sums = [0.0] * len(quantizer.thresholds)
    trials = quantizer.switched.isolate(usable)
    for group, error in track(trials, total=len(usable) * quantizer.switched.samples, desc="gains", unit="run"):
        sums[group] += error
    quantizer.switched.forget_parts()
    return error_shares([total / quantizer.switched.samples for total in sums], quantizer.output_error)


def most_groups(quantizer: PostTrainingQuantizer, order: list[int]) -> int:
    """Returns how many groups, in this order, can be in 16 bit while a layer is left in INT8."""
    read = [position for position, i in enumerate(order) if quantizer.costs[i] > 0 and quantizer.thresholds[i] > 0]
    return max(read, default=0)


def in_words(attempt: BudgetAttempt, reference: float, unit: str) -> str:
    """Returns a text like 'loses 0.2 points (97.1 of 97.3) with 95.2% of multiply-accumulates in INT8'."""
    figures = f" ({attempt['accuracy']:.6g} of {reference:.6g})" if reference else ""
    drop = reference - attempt["accuracy"]
    lost = f"{'loses' if drop >= 0 else 'gains'} {abs(drop):.3g} {unit}{figures}"
    return f"{lost} with {100 * attempt['int8_macs']:.1f}% of multiply-accumulates in INT8"


def raise_unreachable(attempts: list[BudgetAttempt], reference: float, max_drop: float, unit: str) -> NoReturn:
    best = max(attempts, key=lambda attempt: attempt["accuracy"])
    raise UserError(
        f"INT8 loses more than {max_drop:g} {unit}, whatever stays in 16 bit: the best, with {best['groups']} groups "
        f"there, {in_words(best, reference, unit)}; allow more, or build PRECISION=fp16"
    )
