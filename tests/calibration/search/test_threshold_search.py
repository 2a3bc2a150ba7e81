"""The threshold search: on synthetic errors, and on networks of which it is known whether clipping helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.placement import make_plan
from effedge.calibration.ranges.collect import collect
from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.thresholds import least_errors
from effedge.calibration.search import threshold_search
from effedge.calibration.search.switched_session import SwitchedTrials
from effedge.calibration.search.threshold_search import (
    ACCEPTABLE_ERROR,
    LADDER,
    MIDDLE,
    search_thresholds,
    trial_budget,
)
from effedge.calibration.search.trials import Trials
from effedge.deploy.common import messages
from tests.calibration import networks

Load = Callable[[networks.Network], ir.Model]


class Landscape:
    """Switched trials whose output error is a price for each group that is on, twice on every second sample."""

    samples = 8
    lows = [None] * 60

    def __init__(self, prices: Sequence[float]) -> None:
        self.prices, self.seen, self.runs = prices, list[dict[int, float]](), 0

    def price(self, thresholds: Mapping[int, float]) -> float:
        return sum(self.prices[index] for index in thresholds)

    def errors(self, thresholds: Mapping[int, float], samples: Sequence[int] | None = None) -> Iterator[float]:
        self.seen.append(dict(thresholds))
        for index in range(self.samples) if samples is None else samples:
            self.runs += 1
            yield self.price(thresholds) * (2 if index % 2 else 1) / 1.5

    def isolated_errors(self, group: int, threshold: float) -> Iterator[float]:
        return self.errors({group: threshold})

    def isolate(self, thresholds: Mapping[int, float], samples: Sequence[int]) -> Iterator[tuple[int, float]]:
        for group, threshold in reversed(thresholds.items()):  # in any order
            for error in self.errors({group: threshold}, samples):
                yield group, error


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


def draws(count: int) -> list[Histogram]:
    """Groups of values that INT8 holds worse and worse: the largest takes the others' resolution."""
    random = np.random.default_rng(0)
    return [histogram_of(np.append(random.normal(size=5000), 5.0 * (index + 1))) for index in range(count)]


def test_a_gain_is_the_groups_share_of_the_output_error_by_the_square_of_its_isolated_error() -> None:
    switched = Landscape([0.1, 0.4, 0.0, 0.2])
    fixed = [1.0, 2.0, 3.0, 4.0]
    thresholds, error, gains, _ = search_thresholds(switched, draws(4), dict(enumerate(fixed)))  # type: ignore[arg-type]
    assert thresholds == fixed and switched.seen[0] == dict(enumerate(fixed))
    alone = [{index: value} for index, value in enumerate(fixed)]
    assert switched.seen[1:5] == alone[::-1] and sorted(map(str, switched.seen[5:])) == sorted(map(str, alone))
    assert switched.runs == 8 + 4 * 2 + 4 * 8, "a quarter of the samples for each, and all for the largest"
    assert error == pytest.approx(0.7) and gains == pytest.approx([0.7 * square / 21 for square in (1, 16, 0, 4)])


def test_the_groups_with_the_largest_errors_are_tried_on_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_search, "FINALISTS", 3)
    switched = Landscape([0.1, 0.4, 0.3, 0.01, 0.2, 0.05])
    _, _, gains, _ = search_thresholds(switched, draws(6), dict.fromkeys(range(6), 1.0))  # type: ignore[arg-type]
    assert switched.seen[7:] == [{1: 1.0}, {2: 1.0}, {4: 1.0}]
    assert np.argsort(gains).tolist() == [3, 5, 0, 4, 2, 1]


class Hiding(Landscape):
    """The first group's error is a thousand times that of the others, of which together three are best at the largest
    threshold, and four at the smallest."""

    def price(self, thresholds: Mapping[int, float]) -> float:
        if len(thresholds) == 1:
            return 1000 if 0 in thresholds else 0.1
        others = sum(0.1 + 0.01 * (value if index > 3 else -value) for index, value in thresholds.items() if index)
        return others + 1000 * (0 in thresholds)


def test_a_group_that_will_be_in_16_bit_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_search, "least_errors", lambda *_: [9.0 - rung for rung in range(len(LADDER))])
    seen = []

    def leave(gains: Sequence[float], total: float, thresholds: Sequence[float]) -> list[int]:
        seen.append((int(np.argmax(gains)), total, thresholds))
        return [0]

    hidden = search_thresholds(Hiding([]), draws(8))  # type: ignore[arg-type]
    found = search_thresholds(Hiding([]), draws(8), leave=leave)  # type: ignore[arg-type]
    assert found.thresholds[1:] == [9.0] * 3 + [1.0] * 4 != hidden.thresholds[1:]
    [(worst, total, thresholds)] = seen
    assert worst == 0 and total > 1000 and set(thresholds) == {9.0 - MIDDLE}, "at the middle rung"
    assert found.output_error > 1000, "of all groups in INT8"
    assert found.left_out == [0] and hidden.left_out == []
    assert found.gains[0] == pytest.approx(found.output_error, rel=1e-3)


class Together(Landscape):
    """By itself a group is best at its largest threshold; together they are best at the smallest."""

    def price(self, thresholds: Mapping[int, float]) -> float:
        total = sum(thresholds.values())
        return 1 / total if len(thresholds) == 1 else total


def test_what_helps_each_group_alone_is_not_taken_if_together_it_does_harm() -> None:
    switched, histograms = Together([]), draws(3)
    thresholds, error, _, _ = search_thresholds(switched, histograms)  # type: ignore[arg-type]
    least = min(sum(on.values()) for on in switched.seen if len(on) == 3)
    assert error == pytest.approx(sum(thresholds)) == pytest.approx(least)
    assert any(len(on) == 1 and sum(on.values()) > max(thresholds) for on in switched.seen), "the climb was tried"


def test_a_group_that_was_always_zero_is_never_on() -> None:
    switched = Landscape([0.1, 0.4])
    histograms = [*draws(1), histogram_of(np.zeros(10))]
    thresholds, error, gains, _ = search_thresholds(switched, histograms)  # type: ignore[arg-type]
    assert thresholds[1] == 0 and error == pytest.approx(0.1) and gains == pytest.approx([0.1, 0])
    assert not any(1 in on for on in switched.seen)


def test_of_an_acceptable_output_error_no_gain_is_measured() -> None:
    switched = Landscape([ACCEPTABLE_ERROR / 4] * 3)
    assert search_thresholds(switched, draws(3), dict.fromkeys(range(3), 1.0)).gains == [0, 0, 0]  # type: ignore[arg-type]
    assert len(switched.seen) == 1


def test_with_few_runs_left_each_group_is_tried_on_fewer_samples() -> None:
    for runs, each in ((1000, 2), (8 + 6 * 2 * 0.5, 2), (8 + 6 * 2 * 0.5 - 1, 1), (8 + 6 * 0.5, 1)):
        switched = Landscape([0.1, 0.4, 0.3, 0.01, 0.2, 0.05])
        search_thresholds(switched, draws(6), dict.fromkeys(range(6), 1.0), runs=runs)  # type: ignore[arg-type]
        assert switched.runs == 8 + 6 * each + 6 * 8


def test_without_runs_left_the_gains_are_shares_by_the_noise() -> None:
    switched, histograms = Landscape([0.1] * 4), draws(4)
    fixed = {group: histogram.amax for group, histogram in enumerate(histograms)}
    _, error, gains, _ = search_thresholds(switched, histograms, fixed, runs=9)  # type: ignore[arg-type]
    assert len(switched.seen) == 1 and error == pytest.approx(0.4)
    assert sorted(gains) == gains and min(gains) > 0 and sum(gains) <= error * (1 + 1e-9)


@pytest.mark.parametrize("runs", [100, 400, 800, 10_000])
def test_the_runs_are_kept_to_and_a_progress_bar_changes_nothing(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for disabled in (True, False):
        monkeypatch.setattr(messages, "progress_hidden", lambda off=disabled: off)
        switched = Landscape([0.1 * index for index in range(60)])
        result = search_thresholds(switched, draws(60), runs=runs)  # type: ignore[arg-type]
        found.append((result, switched.runs))
    assert found[0] == found[1]
    least = 8 * len(LADDER) + (8 * 24 + 2 * 60) // 2  # one rung for all, and each group by itself
    assert found[0][1] <= 2 * max(runs, least)  # a run of one group by itself counts half


def test_a_large_model_has_fewer_samples_a_trial_and_all_have_some() -> None:
    sizes = [0, 10**6, 10**9, 10**10, 10**11, 10**13]
    samples, runs = zip(*(trial_budget(macs) for macs in sizes), strict=True)
    assert list(samples) == sorted(samples, reverse=True) and min(samples) >= 8
    assert list(runs) == sorted(runs, reverse=True) and min(runs) >= 256


OUTLIER = 200.0


def net_with_outliers(saturates: bool) -> networks.Network:
    """Mixed channels; behind a Clip a value in a thousand that is huge says no more than one that is large."""
    net = networks.Network(3)
    y = net.conv(net.input("x", [1, 4, 16, 16]), "conv", 4, 6)
    if saturates:
        y = net.node("Clip", [y, net.constant("low", np.float32(-2)), net.constant("high", np.float32(2))], "clip")
    net.output(y, [1, 6, 16, 16])
    return net


def runs_with_outliers() -> list[dict[str, np.ndarray]]:
    runs = networks.normal_runs(6, (1, 4, 16, 16))
    for index, feeds in enumerate(runs):
        feeds["x"][0, index % 4, 3, index] = OUTLIER
    return runs


def plain_error(net: networks.Network, x: np.ndarray, limit: float, saturates: bool) -> float:
    """The squared error over the variance about each channel's mean of the same network in NumPy, x and the weights
    rounded to INT8."""
    weight, bias = (np.array(onnx_tensor) for onnx_tensor in weights_of(net))
    steps = np.abs(weight).max(axis=1, keepdims=True) / 127
    rounded = np.clip(np.rint(x / (limit / 127)), -127, 127) * (limit / 127)
    pairs = ((weight, x), (np.rint(weight / steps) * steps, rounded))
    outputs = [np.einsum("oc,ncyx->noyx", kernel[:, :, 0, 0], each) + bias[:, None, None] for kernel, each in pairs]
    if saturates:
        outputs = [np.clip(each, -2, 2) for each in outputs]
    wanted, got = outputs
    return float(np.square(wanted - got).sum() / np.square(wanted - wanted.mean(axis=(0, 2, 3), keepdims=True)).sum())


def weights_of(net: networks.Network) -> list[np.ndarray]:
    from onnx import numpy_helper

    by_name = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in net.initializers}
    return [by_name["conv.weight"], by_name["conv.bias"]]


@pytest.mark.parametrize("saturates", [True, False], ids=["clipping helps", "clipping does not help"])
def test_outliers_are_clipped_where_the_output_does_not_miss_them(load: Load, saturates: bool) -> None:
    net, samples = net_with_outliers(saturates), networks.as_samples(runs_with_outliers())
    model = load(net)
    plan = make_plan(model)
    [histogram] = collect(model, samples, plan.tensors).values()
    switched = SwitchedTrials(model, plan, Trials(model, samples))
    [threshold], error, _, _ = search_thresholds(switched, [histogram])
    assert threshold < 10 if saturates else threshold == OUTLIER

    def mean(limit: float) -> float:
        return plain_error(net, np.concatenate([feeds["x"] for _, feeds in samples]), limit, saturates)

    assert error == pytest.approx(mean(threshold), rel=1e-3)
    assert error == pytest.approx(min(map(mean, least_errors(histogram, LADDER))), rel=1e-3)
