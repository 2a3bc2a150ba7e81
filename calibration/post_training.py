"""Quantizes a float model to INT8 from calibration data, without training it.

1. Channel equalization, where it changes nothing that the float model computes (weights/equalize.py).
2. Alignment of images, so that none of their levels is rounded (weights/image_levels.py, align_images.py).
3. Ranges: one streaming pass over all samples, a histogram per tensor (ranges/collect.py).
4. Weights rounded by what they do at their layers' outputs (weights/round_weights.py).
5. Threshold search by the output error (search/threshold_search.py, switched_session.py, output_error/).
6. Precision choice: the scale groups that stay in 16 bit, by output error for arithmetic (search/precision_choice.py).
7. Q/DQ by the placement rules (placement/).
8. The output error on samples that no trial has seen (search/last_word.py).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn, TypeVar

import onnx_ir as ir
from onnx_ir.passes import common

from effedge.calibration.graph.macs import macs, measured_shapes
from effedge.calibration.placement import Plan, make_plan
from effedge.calibration.placement.insert import InsertQDQPass, RoundedWeight
from effedge.calibration.ranges.collect import collect
from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.thresholds import AUTO, threshold
from effedge.calibration.report import attach_report
from effedge.calibration.search.last_word import HeldOut, hold_out, on_others, say_last_word
from effedge.calibration.search.precision_choice import choose_step_by_step
from effedge.calibration.search.sqnr import in_words, last_layers, sqnr
from effedge.calibration.search.switched_session import SwitchedTrials
from effedge.calibration.search.threshold_search import search_thresholds, trial_budget
from effedge.calibration.search.trials import Trials
from effedge.calibration.settings import DEFAULT, Settings
from effedge.calibration.weights.align_images import Range, align_images
from effedge.calibration.weights.equalize import equalize
from effedge.calibration.weights.round_weights import round_weights, sample_budget
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CalibrationReport, SensitivityRow

SQNR_RUNS = 8
NEAREST, ROUNDED = "none", "rounded"  # how weights were rounded: to the nearest, or by round_weights.py
FEW_IMAGES = 16
ALL_ZERO = "its input was 0 on all calibration data"
Item = TypeVar("Item")


def quantize(model: ir.Model, samples: Samples, settings: Settings = DEFAULT) -> tuple[ir.Model, CalibrationReport]:
    """Quantizes a float model (from onnx_file.load), which stays as it is.

    Args:
        samples: calibration data. The ranges are taken from all samples; the trials and the correction use some.

    Returns:
        The INT8 model and its report, which is also in its metadata.

    Raises:
        UserError: no layer that can be quantized, NaN or infinity in an activation.
    """
    quantizer = PostTrainingQuantizer(model, samples, settings)
    return say_last_word(quantizer, *quantizer.build(quantizer.choose_float_groups()))


class PostTrainingQuantizer:
    """Prepares a model for INT8 on calibration data, and makes INT8 models with more or fewer layers in 16 bit.

    Attributes:
        model: the float model, which stays as it is.
        equalized: the float model with equalized channels.
        equalized_groups: the number of groups of tensors whose channels were equalized.
        plan: of `equalized`, with all layers in INT8 that the placement rules allow.
        zero_tensors: the tensors that were 0 on all samples, with the reason to keep their layers in float.
        lows: the lowest value of each scale group, where it may have a zero point; else None.
        weights: of the layers by their names, rounded by round_weights; none without the correction.
        thresholds, gains, left_out: of the scale groups (threshold_search.ThresholdSearchResult).
        output_error: of all groups in INT8.
    """

    def __init__(self, model: ir.Model, samples: Samples, settings: Settings = DEFAULT) -> None:
        settings.check()
        self.model, self.samples, self.settings = model, samples, settings
        self.macs = macs(model, measured_shapes(model, samples.load(0)))
        images = self._rewrite()
        histograms, exact = self._take_ranges(images)
        trial_samples, runs = trial_budget(sum(self.macs.values()))
        self.trials = Trials(model, samples.spread(trial_samples), dict(settings.output_kinds))
        self.weights = round_weights(
            self.equalized, self.plan.layers if settings.correction else [], self.fitted_samples
        )
        self.switched = SwitchedTrials(self.equalized, self.plan, self.trials, self.lows, self.weights)
        self.thresholds, self.output_error, self.gains, self.left_out = search_thresholds(
            self.switched,
            histograms,
            self._by_method(histograms) | exact,
            runs=runs,
            leave=lambda *found: self._choose(*found)[0],
        )
        self.switched.forget_parts()

    def _rewrite(self) -> dict[str, Range]:
        """Makes the float model that is quantized, and its plan; returns the ranges of the images in it that INT8 holds
        exactly."""
        self.equalized = self.model.clone()
        self.equalized_groups = equalize(self.equalized, self.samples)
        images = align_images(self.equalized, self.samples, zero_points=self.settings.zero_points)
        self.plan = make_plan(self.equalized, float_kinds=self.settings.float_kinds or ())
        if not self.plan.layers:
            raise_nothing_to_quantize(self.plan.float_layers)
        return images

    def _take_ranges(self, images: Mapping[str, Range]) -> tuple[list[Histogram], dict[int, float]]:
        """Takes the ranges of all tensors of the plan; returns the histogram of each scale group, and the thresholds of
        those that are exact images."""
        histograms = collect(self.equalized, self.samples, self.plan.tensors)
        self.zero_tensors = {name: ALL_ZERO for name, histogram in histograms.items() if histogram.amax == 0}
        of_groups = merge_histograms(self.plan.groups, histograms)
        self.lows = [histogram.low if self.settings.zero_points else None for histogram in of_groups]
        exact = {}
        for index, (name, *others) in enumerate(self.plan.groups):
            if name in images and not others:
                exact[index], self.lows[index] = images[name]
        return of_groups, exact

    def _by_method(self, histograms: Sequence[Histogram]) -> dict[int, float]:
        """Returns the threshold of each scale group by the method of the settings; none where they are searched."""
        if self.settings.method == AUTO:
            return {}
        pairs = zip(histograms, self.lows, strict=True)
        return {index: threshold(each, self.settings.method, low) for index, (each, low) in enumerate(pairs)}

    @property
    def costs(self) -> list[float]:
        """The share of multiply-accumulates that read each scale group."""
        total = max(1, sum(self.macs.values()))
        macs_of_tensor: dict[str, int] = {}
        for layer in self.plan.layers:
            name = layer.data.name or ""
            macs_of_tensor[name] = macs_of_tensor.get(name, 0) + self.macs[layer.name]
        return [sum(macs_of_tensor.get(name, 0) for name in group) / total for group in self.plan.groups]

    def choose_float_groups(self) -> list[int]:
        """Returns the groups that should stay in 16 bit, within the share that the settings allow: by their gains, or
        those without which the thresholds were searched, whichever leave the smaller output error."""
        chosen, left = self._choose(self.gains, self.output_error, self.thresholds)
        if chosen and self.left_out and self._error_without(self.left_out, self.thresholds) < left:
            return self.left_out
        return chosen

    def _choose(self, gains: Sequence[float], error: float, thresholds: Sequence[float]) -> tuple[list[int], float]:
        """Returns the groups that should stay in 16 bit, of the output error of all groups with these thresholds, and
        what is left of it."""
        share = self.settings.float_share
        return choose_step_by_step(
            gains, error, self.costs, share, lambda groups: self._error_without(groups, thresholds)
        )

    def _error_without(self, groups: Collection[int], thresholds: Sequence[float]) -> float:
        """Measures the output error with the given groups in 16 bit."""
        in_int8 = {i: value for i, value in enumerate(thresholds) if value > 0 and i not in groups}
        return self.switched.output_error(in_int8)

    def build(self, float_groups: Sequence[int]) -> tuple[ir.Model, CalibrationReport]:
        """Makes the INT8 model with the given groups in 16 bit, and its report."""
        unusable = dict(self.zero_tensors)
        for index in float_groups:
            gain, work = f"{self.gains[index]:.2g}", f"{100 * self.costs[index]:.3g}%"
            reason = f"in INT8 it adds {gain} to the output error for {work} of the work"
            unusable.update((name, unusable.get(name, reason)) for name in self.plan.groups[index])
        thresholds = self._by_tensor(self.thresholds)
        changed, plan = self._in_int8(unusable, thresholds, self.weights)
        output_error, correction = self.trials.output_error(changed), ROUNDED if self.weights else NEAREST
        if self.weights:  # on few or odd samples they may do harm
            nearest, _ = self._in_int8(unusable, thresholds, {})
            nearest_error = self.trials.output_error(nearest)
            if nearest_error < output_error:
                changed, output_error, correction = nearest, nearest_error, NEAREST
        int8_macs = sum(self.macs[layer.name] for layer in plan.layers)
        ratios = sqnr(self.model, changed, self.samples.spread(SQNR_RUNS), last_layers(self.model))
        layers = {node.outputs[0].name or "": node.name or "" for node in self.model.graph}
        report: CalibrationReport = {
            "method": self.settings.method,
            "zero_points": self.settings.zero_points,
            "correction": correction,
            "images": len(self.samples),
            "equalized": self.equalized_groups,
            "int8_macs": round(int8_macs / max(1, sum(self.macs.values())), 4),
            "int8_layers": len(plan.layers),
            "float_layers": plan.float_layers,
            "output_error": round(output_error, 6),
            "judged_as": self.trials.choice.texts,
            "output_kinds": dict(self.settings.output_kinds),
            "sqnr_db": {layers[tensor]: ratio for tensor, ratio in ratios.items()},
            "thresholds": {name: thresholds[name] for name in plan.tensors if name in thresholds},
            "sensitivity": self.sensitivity(),
        }
        attach_report(changed, report)
        return changed, report

    def _in_int8(
        self, unusable: Mapping[str, str], thresholds: Mapping[str, float], weights: Mapping[str, RoundedWeight]
    ) -> tuple[ir.Model, Plan]:
        """Makes an INT8 model, and returns it with its plan.

        Args:
            unusable: tensors that stay in 16 bit, with the reason.
            thresholds: by tensor.
            weights: of layers by their names, where they are not rounded to the nearest.
        """
        changed = self.equalized.clone()
        plan = make_plan(changed, unusable, self.settings.float_kinds or ())
        if not plan.layers:
            raise_nothing_to_quantize(plan.float_layers)
        # A residual add has another shortcut where its first one's convolution left INT8. That one has no threshold,
        # and stays in float.
        names = [value.name for node, index in plan.reads if (value := node.inputs[index]) is not None]
        reads = [read for read, name in zip(plan.reads, names, strict=True) if name in thresholds]
        InsertQDQPass(reads, thresholds, plan.layers, self._by_tensor(self.lows), weights)(changed)
        common.RemoveUnusedNodesPass()(changed)
        return changed, plan

    @property
    def fitted_samples(self) -> Samples:
        """The samples that the weights are rounded by. Those of the trials judge them."""
        return self.samples.beside(len(self.trials.feeds)).spread(sample_budget(sum(self.macs.values())))

    @functools.cached_property
    def held_out(self) -> HeldOut | None:
        """Trials on samples that choose nothing; None if there are too few samples."""
        fitted = self.fitted_samples.names if self.settings.correction else ()
        return hold_out(self.model, self.samples, self.trials, fitted)

    def limited_error(self, model: ir.Model) -> float:
        """Returns the output error that a limit is for: the larger of that on the trials' samples and on others."""
        held_out = self.held_out
        error = self.trials.output_error(model)
        return error if held_out is None else max(error, held_out.trials.output_error(model))

    def _by_tensor(self, values: Sequence[Item]) -> dict[str, Item]:
        """Returns the value of each group for each of its tensors."""
        return {name: value for group, value in zip(self.plan.groups, values, strict=True) for name in group}

    def sensitivity(self) -> list[SensitivityRow]:
        """Returns the scale groups for the report, largest gain first."""
        readers: dict[str, list[str]] = {}
        for node, index in self.plan.reads:
            readers.setdefault(node.inputs[index].name or "", []).append(node.name or "")  # type: ignore[union-attr]
        rows: list[SensitivityRow] = [
            {
                "layers": [name for tensor in group for name in readers[tensor]],
                "tensors": list(group),
                "gain": gain,
                "macs": round(cost, 6),
            }
            for group, gain, cost in zip(self.plan.groups, self.gains, self.costs, strict=True)
        ]
        return sorted(rows, key=lambda row: -row["gain"])


def raise_nothing_to_quantize(
    float_layers: Mapping[str, str], kind: str = "INT8", others: str = "fp16 or fp32"
) -> NoReturn:
    """Raises the UserError for a model without a layer that can be `kind`; `others` are the precisions to build."""
    why = "; ".join(sorted(set(float_layers.values()))) or "it has no convolution and no matrix product"
    raise UserError(f"nothing in the model can be {kind} ({why}): build it as {others}")


def merge_histograms(groups: Sequence[Sequence[str]], histograms: Mapping[str, Histogram]) -> list[Histogram]:
    """Returns one histogram for each group of tensors."""
    result = []
    for first, *others in groups:
        merged = histograms[first].copy()
        for name in others:
            merged.merge(histograms[name])
        result.append(merged)
    return result


def describe(report: CalibrationReport) -> str:
    """Returns the report of `quantize` on one line."""
    few = " (few: a hundred serve better)" if report["images"] < FEW_IMAGES else ""
    return (
        f"calibrate: {report['method']} on {report['images']} runs{few}; {report['int8_layers']} layers in INT8, "
        f"{len(report['float_layers'])} in float; {100 * report['int8_macs']:.1f}% of multiply-accumulates in INT8; "
        f"output error {report['output_error']:.2g}{on_others(report)}; {in_words(report['sqnr_db'])}"
    )
