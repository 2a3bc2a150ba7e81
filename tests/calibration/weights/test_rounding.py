"""Scales and compensated rounding against plain NumPy: brute force, and GPTQ by its algorithm."""

from __future__ import annotations

import numpy as np
import pytest

from effedge.calibration.weights.rounding import SHRINKS, compensated, nearest, regularized, search_scales


def correlated(random: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Rows [rows, size] of a few factors, as activations are, and of unlike magnitudes."""
    factors = random.normal(size=(rows, max(1, size // 4))) @ random.normal(size=(max(1, size // 4), size))
    return (factors + 0.3 * random.normal(size=(rows, size))) * np.exp(random.normal(0, 0.7, size))


def problem(seed: int, groups: int = 2, outputs: int = 5, size: int = 24, rows: int = 400):
    """(weights [G, R, K], H [G, K, K], scales [G, R] from the largest weight)."""
    random = np.random.default_rng(seed)
    data = np.stack([correlated(random, rows, size) for _ in range(groups)])
    weights = random.normal(size=(groups, outputs, size))
    own = regularized(data.transpose(0, 2, 1) @ data / rows, rows)
    return weights, own, np.abs(weights).max(axis=2) / 127


def costs(weights: np.ndarray, whole: np.ndarray, scales: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(w - q)' H (w - q) of each row, [G, R]."""
    error = weights - whole * scales[..., None]
    return np.einsum("grk,gkl,grl->gr", error, own, error)


def gptq(weights: np.ndarray, scale: float, own: np.ndarray) -> np.ndarray:
    """One row as Optimal Brain Quantization does it (Frantar and Alistarh 2022, equations 2 and 3), unblocked: round
    one weight, move the rest to the best there is for it, take it out of the inverse; in GPTQ's fixed order."""
    left, inverse, result = weights.copy(), np.linalg.inv(own), np.zeros(len(weights))
    for k in np.argsort(-np.diag(own), kind="stable"):
        result[k] = min(max(np.round(left[k] / scale), -127), 127)
        error = (left[k] - result[k] * scale) / inverse[k, k]
        left -= error * inverse[:, k]
        inverse -= np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return result


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (7, 1), (24, 2), (24, 3), (150, 4)])
def test_rounding_is_that_of_a_plain_loop_and_no_worse_than_to_the_nearest(size: int, seed: int) -> None:
    weights, own, scales = problem(seed, size=size)
    scales = scales * 8  # a coarse step, so that there is something to make good
    whole = compensated(weights, scales, own)
    plain = np.array([[gptq(weights[g, r], scales[g, r], own[g]) for r in range(5)] for g in range(2)])
    assert np.mean(whole != plain) < 0.002, "a tie may fall either way"
    ours, theirs = (costs(weights, each, scales, own).sum() for each in (whole, nearest(weights, scales)))
    assert ours <= theirs * (1 + 1e-9)
    if size >= 24:
        assert ours < 0.8 * theirs
    assert (whole == np.rint(whole)).all() and np.abs(whole).max() <= 127


def test_without_correlation_rounding_is_to_the_nearest() -> None:
    weights, _, scales = problem(0)
    diagonal = np.stack([np.diag(np.random.default_rng(1).uniform(0.1, 9, weights.shape[2]))] * 2)
    np.testing.assert_array_equal(compensated(weights, scales, diagonal), nearest(weights, scales))


def test_of_two_equal_inputs_the_second_makes_good_what_the_first_is_rounded_by() -> None:
    own = np.ones((1, 2, 2)) + 1e-6 * np.eye(2)
    weights, scales = np.array([[[0.4, 0.4]]]), np.ones((1, 1))
    assert nearest(weights, scales).sum() == 0
    assert compensated(weights, scales, own).sum() == 1  # of 0.8


def test_what_clips_stays_within_int8() -> None:
    weights, own, scales = problem(3)
    whole = compensated(weights, scales / 4, own)
    assert np.abs(whole).max() == 127
    assert (
        costs(weights, whole, scales / 4, own).sum()
        < costs(weights, nearest(weights, scales / 4), scales / 4, own).sum()
    )


def test_scales_are_the_best_of_all_that_are_tried() -> None:
    random = np.random.default_rng(0)
    weights = random.standard_t(3, size=(2, 6, 40))
    importance = random.exponential(size=(2, 40)) ** 2
    found = search_scales(weights, importance)
    for group in range(2):
        for row in range(6):
            tried = {}
            for shrink in SHRINKS:
                scale = np.abs(weights[group, row]).max() * shrink / 127
                whole = np.clip(np.round(weights[group, row] / scale), -127, 127)
                tried[scale] = (importance[group] * (weights[group, row] - whole * scale) ** 2).sum()
            loss = min(tried.values())
            assert tried[min(tried, key=lambda scale: abs(scale - found[group, row]))] == pytest.approx(loss, rel=1e-5)


def test_a_large_weight_whose_input_carries_nothing_is_clipped_and_one_that_carries_is_not() -> None:
    weights = np.append(np.random.default_rng(0).uniform(-1, 1, 200), 1.5)[None, None]
    importance = np.ones((1, 201))
    assert search_scales(weights, importance) == pytest.approx(1.5 / 127, rel=0.01)
    importance[0, -1] = 0
    assert search_scales(weights, importance).item() < 1.1 / 127


def test_groups_are_independent() -> None:
    weights, own, scales = problem(1, groups=3)
    together = compensated(weights, scales, own), search_scales(weights, own[:, 0])
    for g in range(3):
        part = slice(g, g + 1)
        alone = (
            compensated(weights[part], scales[part], own[part]),
            search_scales(weights[part], own[part, 0]),
        )
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[part], single, rtol=1e-9)


def dead(x: np.ndarray) -> np.ndarray:
    x[:, ::2] = 0
    return x


DATA = {
    "dead inputs": dead,
    "all dead": lambda x: 0 * x,
    "constant inputs": lambda x: 0 * x + np.linspace(-3, 500, x.shape[1]),
    "a constant among them": lambda x: np.where(np.arange(x.shape[1]) == 3, 4.0, x),
    "a single row": lambda x: x[:1],
    "two rows": lambda x: x[:2],
    "tiny": lambda x: 1e-20 * x,
    "huge": lambda x: 1e15 * x,
    "of unlike magnitudes": lambda x: x * np.logspace(-12, 6, x.shape[1]),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_that_says_little_gives_finite_weights_close_to_the_old_ones(kind: str) -> None:
    random = np.random.default_rng(0)
    x = np.asarray(DATA[kind](random.normal(size=(64, 16))), np.float32)
    rows = len(x)
    own, weights = (x.T @ x).astype(np.float64)[None] / rows, random.normal(size=(1, 3, 16))
    weights[0, 0] = 0  # a dead output
    certain = regularized(own, rows)
    scales = search_scales(weights, np.einsum("gkk->gk", certain))
    whole = compensated(weights, scales, certain)
    assert np.isfinite(whole).all() and (scales > 0).all()
    assert (whole[0, 0] == 0).all()
    # Not only finite: as good for the data as rounding to the nearest, where a step is at most the largest / 127.
    error, step = whole * scales[..., None] - weights, np.abs(weights).max() / 127
    assert (np.einsum("grk,gkl,grl->gr", error, certain, error) <= step**2 * certain[0].trace()).all()


def test_subnormal_weights_give_a_usable_scale() -> None:
    weights = np.full((1, 2, 4), 1e-42)
    scales = search_scales(weights, np.ones((1, 4)))
    assert (scales >= np.finfo(np.float32).tiny).all()
    assert (nearest(weights, scales) == 0).all()
