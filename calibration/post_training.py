"""Post-training INT8: a study of a float model on calibration data, and the INT8 models that follow from it.

1. Channels are evened out where that costs nothing (equalize.py).
2. Ranges: one streaming pass over all samples (ranges.py), a histogram per tensor.
3. Thresholds, and what each does to the outputs (choice.py, gates.py, damage.py).
4. The layers that stay in 16 bit, by damage for arithmetic (keep.py).
5. Q/DQ by the placement rules (placement/), and the correction of weights and biases (correct.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import onnx_ir as ir
from onnx_ir.passes import common

from effedge.calibration.graph.macs import macs
from effedge.calibration.placement import make_plan
from effedge.calibration.placement.insert import InsertQDQPass
from effedge.calibration.ranges.collect import collect
from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.source import METADATA
from effedge.calibration.ranges.thresholds import AUTO, threshold
from effedge.calibration.search.precision_choice import keep_in_float
from effedge.calibration.search.sqnr import last_layers, sqnr
from effedge.calibration.search.switched_session import Gates
from effedge.calibration.search.threshold_search import affordable, choose_thresholds
from effedge.calibration.search.trials import Trials
from effedge.calibration.settings import DEFAULT, Settings
from effedge.calibration.weights.correct import affordable as affordable_corrections
from effedge.calibration.weights.correct import correct
from effedge.calibration.weights.equalize import equalize
from effedge.deploy.common.cli import UserError

SQNR_RUNS = 8
WORTH = 0.1  # of the damage: a correction that saves less may have been lucky with the few samples of a trial
# What became of the weights: to the nearest, or by one of the two ways of correct.py, whichever does the least damage.
NEAREST, ROUNDED, REFITTED = "none", "rounded", "refitted"
FEW = 16
ALL_ZERO = "its input was 0 on all calibration data"


def quantize(
    model: ir.Model, samples: Samples, settings: Settings = DEFAULT, *, quiet: bool = False
) -> tuple[ir.Model, dict[str, Any]]:
    """Quantize a float model (from onnx_file.load), which stays as it is.

    Args:
        samples: calibration data. All of it is seen once for the ranges; the trials and the correction take some of it.

    Returns:
        The INT8 model and its report, which is also in its metadata: method, zero_points, correction (of the weights:
        see NEAREST), images, equalized (groups of tensors), int8_macs (a share of 1), int8_layers, float_layers {name:
        reason}, damage (damage.py), sqnr_db {tensor: dB}, thresholds {tensor: magnitude}, sensitivity
        (Study.sensitivity).

    Raises:
        UserError: no layer that can be quantized, NaN or infinity on the way.
    """
    study = Study(model, samples, settings, quiet=quiet)
    return study.build(study.kept())


class Study:
    """What calibration data says of a model, from which INT8 models with more or fewer layers in 16 bit are made."""

    def __init__(self, model: ir.Model, samples: Samples, settings: Settings = DEFAULT, *, quiet: bool = False) -> None:
        settings.check()
        self.model, self.samples, self.settings, self.quiet = model, samples, settings, quiet
        self.equal = model.clone()
        self.equalized = equalize(self.equal, samples, quiet=quiet)
        self.macs = macs(model)
        self.plan = make_plan(self.equal)
        if not self.plan.layers:
            raise_nothing(self.plan.kept)
        histograms = collect(self.equal, samples, self.plan.tensors, quiet=quiet)
        self.zero = {name: ALL_ZERO for name, histogram in histograms.items() if histogram.amax == 0}
        groups = merged(self.plan.groups, histograms)
        self.lows = [histogram.low if settings.zero_points else None for histogram in groups]
        runs, trials = affordable(sum(self.macs.values()))
        self.trials = Trials(model, samples.spread(runs))
        gates = Gates(self.equal, self.plan, self.trials, self.lows)
        fixed = None if settings.method == AUTO else [threshold(each, settings.method) for each in groups]
        self.thresholds, self.damage, self.gain = choose_thresholds(gates, groups, fixed, trials=trials, quiet=quiet)

    @property
    def cost(self) -> list[float]:
        """The share of multiply-accumulates that read each group of the plan."""
        total = max(1, sum(self.macs.values()))
        readers: dict[str, int] = {}
        for layer in self.plan.layers:
            readers[layer.data.name or ""] = readers.get(layer.data.name or "", 0) + self.macs[layer.name]
        return [sum(readers.get(name, 0) for name in group) / total for group in self.plan.groups]

    def kept(self) -> list[int]:
        """The groups that should stay in 16 bit, within the share that the settings allow."""
        return keep_in_float(self.gain, self.damage, self.cost, self.settings.float_share)

    def build(self, kept: Sequence[int]) -> tuple[ir.Model, dict[str, Any]]:
        """The INT8 model with the groups `kept` in 16 bit, and its report."""
        unusable = dict(self.zero)
        for index in kept:
            why = f"in INT8 it does {self.gain[index]:.2g} of damage for {100 * self.cost[index]:.2g}% of the work"
            unusable.update((name, unusable.get(name, why)) for name in self.plan.groups[index])
        changed = self.equal.clone()
        plan = make_plan(changed, unusable)
        if not plan.layers:
            raise_nothing(plan.kept)
        chosen, lows = self._by_tensor(self.thresholds), self._by_tensor(self.lows)
        InsertQDQPass(plan.reads, {name: chosen[name] for name in plan.tensors}, plan.layers, lows)(changed)
        damage, corrected = self.trials(changed), NEAREST
        if self.settings.correction:
            nearest = changed
            layers = [layer for layer in self.plan.layers if layer.name not in plan.kept]
            runs = affordable_corrections(sum(self.macs.values()))
            # Judged on samples that it was not fitted to: with few or odd ones it may do harm.
            unseen = self.samples.beside(len(self.trials.feeds)).spread(runs)
            for how in (REFITTED, ROUNDED):
                better = nearest.clone()
                correct(self.equal, better, layers, unseen, refitted=how == REFITTED, quiet=self.quiet)
                after = self.trials(better)
                if after <= damage * (1 - WORTH):
                    changed, damage, corrected = better, after, how
        common.RemoveUnusedNodesPass()(changed)
        ratios = sqnr(self.model, changed, self.samples.spread(SQNR_RUNS), last_layers(self.model), quiet=self.quiet)
        int8 = sum(self.macs[layer.name] for layer in plan.layers)
        report = {
            "method": self.settings.method,
            "zero_points": self.settings.zero_points,
            "correction": corrected,
            "images": len(self.samples),
            "equalized": self.equalized,
            "int8_macs": round(int8 / max(1, sum(self.macs.values())), 4),
            "int8_layers": len(plan.layers),
            "float_layers": plan.kept,
            "damage": round(damage, 6),
            "sqnr_db": ratios,
            "thresholds": {name: chosen[name] for name in plan.tensors},
            "sensitivity": self.sensitivity(),
        }
        changed.metadata_props[METADATA] = json.dumps(report)
        return changed, report

    def _by_tensor(self, values: Sequence[Any]) -> dict[str, Any]:
        """What is said of each group, for each of its tensors."""
        return {name: value for group, value in zip(self.plan.groups, values, strict=True) for name in group}

    def sensitivity(self) -> list[dict[str, Any]]:
        """The groups by falling gain: its tensors, the layers that read them, the gain, the share of MACs."""
        readers: dict[str, list[str]] = {}
        for node, index in self.plan.reads:
            readers.setdefault(node.inputs[index].name or "", []).append(node.name or "")  # type: ignore[union-attr]
        rows = [
            {
                "layers": [name for tensor in group for name in readers[tensor]],
                "tensors": list(group),
                "gain": gain,
                "macs": round(cost, 6),
            }
            for group, gain, cost in zip(self.plan.groups, self.gain, self.cost, strict=True)
        ]
        return sorted(rows, key=lambda row: -row["gain"])


def raise_nothing(kept: Mapping[str, str]) -> NoReturn:
    why = "; ".join(sorted(set(kept.values()))) or "it has no convolution and no matrix product"
    raise UserError(f"nothing in the model can be INT8 ({why}): build it as fp16 or fp32")


def merged(groups: Sequence[Sequence[str]], histograms: Mapping[str, Histogram]) -> list[Histogram]:
    """One histogram for each group of tensors."""
    result = []
    for first, *others in groups:
        together = histograms[first].copy()
        for name in others:
            together.merge(histograms[name])
        result.append(together)
    return result


def describe(report: dict[str, Any]) -> str:
    """The report of `quantize` on one line."""
    ratios = report["sqnr_db"]
    worst = min(ratios, key=ratios.__getitem__)
    few = " (few: a hundred serve better)" if report["images"] < FEW else ""
    return (
        f"calibrate: {report['method']} on {report['images']} runs{few}; {report['int8_layers']} layers in INT8, "
        f"{len(report['float_layers'])} in float; {100 * report['int8_macs']:.1f}% of multiply-accumulates in INT8; "
        f"damage to the outputs {report['damage']:.2g}; "
        f"SQNR {sum(ratios.values()) / len(ratios):.1f} dB on average, lowest {ratios[worst]:.1f} dB at '{worst}'"
    )
