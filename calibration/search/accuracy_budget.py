"""INT8 within a budget: the fewest groups in 16 bit with which the model loses no more accuracy than allowed.

The groups leave INT8 in the order of `keep.ranking`, so what is looked for is one number. It is found by bisection,
which takes it that one more group in 16 bit does not make the model worse. Every attempt is a whole INT8 model with its
correction. The settings' share of arithmetic is only where the search begins: the budget decides.

A drop is only worth as much as the float model's own figure. Where INT8 is clearly better than that, the float model
fails on this data and nothing is bounded; that is said aloud.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import onnx_ir as ir
from tqdm import tqdm

from effedge.calibration.post_training import Study
from effedge.calibration.ranges.source import METADATA
from effedge.calibration.search.precision_choice import ranking
from effedge.calibration.search.switched_session import Gates
from effedge.calibration.search.threshold_search import shares
from effedge.deploy.common.cli import UserError
from effedge.engines.stage import progress_disabled

ROUNDING = 1e-9  # of two figures' difference
TOO_GOOD = 1.05  # times the float model's accuracy: no luck with a few hundred pictures


def meet(
    study: Study, accuracy: Callable[[ir.Model], float], max_drop: float, unit: str = "points"
) -> tuple[ir.Model, dict[str, Any]]:
    """The INT8 model with the fewest groups in 16 bit that is at most `max_drop` below the float model.

    Args:
        accuracy: of the float model or an INT8 one; more is better.
        max_drop: in the unit of `accuracy`, which `unit` names.

    Returns:
        The model and its report, as Study.build, with "budget": {"max_drop", "unit", "float", "int8" (the accuracy of
        both), "float_fails" (True if INT8 is better than belief), "attempts": [{"groups" in 16 bit, "int8_macs",
        "accuracy"}]} in it.

    Raises:
        UserError: the budget cannot be met.
    """
    reference = accuracy(study.model)
    attempts: list[dict[str, Any]] = []
    order = list(range(len(study.plan.groups)))
    met: list[tuple[ir.Model, dict[str, Any], float]] = []  # the last that meets the budget has the fewest groups

    def meets(count: int) -> bool:
        model, report = study.build(order[:count])
        reached = accuracy(model)
        attempts.append({"groups": count, "int8_macs": report["int8_macs"], "accuracy": round(reached, 6)})
        print(f"budget: {count} groups in 16 bit: {in_words(attempts[-1], reference, unit)}", flush=True)
        if reference - reached > max_drop + ROUNDING:
            return False
        met[:] = [(model, report, reached)]
        return True

    if not meets(0):
        study.gain = gains(study)
        order = ranking(study.gain, study.cost)
        most = most_groups(study, order)
        low, high = 0, min(max(1, len(study.kept())), most)
        while low < high and not meets(high):
            low, high = high, min(2 * high, most)
        if low == high:
            raise_unreachable(attempts, reference, max_drop, unit)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(middle) else (middle, high)
    [(model, report, reached)] = met
    report["budget"] = {
        "max_drop": max_drop,
        "unit": unit,
        "float": round(reference, 6),
        "int8": round(reached, 6),
        "float_fails": reference >= 0 and reached > TOO_GOOD * reference,
        "attempts": attempts,
    }
    model.metadata_props[METADATA] = json.dumps(report)
    if report["budget"]["float_fails"]:
        print(
            f"note: INT8 reaches {reached:.6g} {unit}, the float model only {reference:.6g}: it fails on this data, so "
            "the drop says nothing; look at the float model there, or measure on other pictures",
            file=sys.stderr,
        )
    return model, report


def gains(study: Study) -> list[float]:
    """The study's gains. Where it left them out, as all of INT8 together does little damage, they are measured."""
    if any(study.gain):
        return study.gain
    gates = Gates(study.equal, study.plan, study.trials, study.lows)
    bar = tqdm(study.thresholds, desc="gains", unit="group", disable=progress_disabled(study.quiet))
    return shares([gates.alone(i, value) if value > 0 else 0.0 for i, value in enumerate(bar)], study.damage)


def most_groups(study: Study, order: list[int]) -> int:
    """How many groups, in this order, can be in 16 bit while a layer is left in INT8."""
    read = [position for position, i in enumerate(order) if study.cost[i] > 0 and study.thresholds[i] > 0]
    return max(read, default=0)


def in_words(attempt: dict[str, Any], reference: float, unit: str) -> str:
    """Like 'loses 0.2 points (97.1 of 97.3) with 95.2% of multiply-accumulates in INT8'."""
    figures = f" ({attempt['accuracy']:.6g} of {reference:.6g})" if reference else ""
    drop = reference - attempt["accuracy"]
    lost = f"{'loses' if drop >= 0 else 'gains'} {abs(drop):.3g} {unit}{figures}"
    return f"{lost} with {100 * attempt['int8_macs']:.1f}% of multiply-accumulates in INT8"


def raise_unreachable(attempts: list[dict[str, Any]], reference: float, max_drop: float, unit: str) -> NoReturn:
    best = max(attempts, key=lambda attempt: attempt["accuracy"])
    raise UserError(
        f"INT8 loses more than {max_drop:g} {unit}, whatever stays in 16 bit: the best, with {best['groups']} groups "
        f"there, {in_words(best, reference, unit)}; allow more, or build PRECISION=fp16"
    )
