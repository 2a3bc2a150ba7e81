"""Patches: rows times weights are what ONNX Runtime computes, at every position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.placement.layers import Layer, find_layers
from effedge.calibration.weights.patches import Patches, from_matrix, kernel_matrix
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]
ALL = 1 << 20


@dataclass
class Case:
    """A layer: the shapes of its data and its weights, and its attributes."""

    data: tuple[int, ...]
    weight: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    operator: str = "Conv"


CASES = {
    "1x1": Case((2, 3, 5, 4), (6, 3, 1, 1)),
    "kernel 3 x 2": Case((2, 3, 6, 5), (4, 3, 3, 2)),
    "strides": Case((1, 2, 9, 8), (4, 2, 3, 3), {"strides": [2, 3]}),
    "dilations": Case((1, 2, 9, 10), (4, 2, 3, 2), {"dilations": [2, 3]}),
    "asymmetric pads": Case((1, 2, 5, 6), (4, 2, 3, 3), {"pads": [0, 2, 1, 1]}),
    "all of them": Case((2, 2, 11, 12), (4, 2, 3, 2), {"pads": [1, 0, 2, 3], "strides": [2, 1], "dilations": [2, 3]}),
    "SAME_UPPER": Case((1, 2, 7, 8), (4, 2, 3, 4), {"auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": Case((1, 2, 7, 8), (4, 2, 3, 4), {"auto_pad": "SAME_LOWER"}),
    "SAME_UPPER, strides": Case((1, 2, 8, 7), (4, 2, 3, 5), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "SAME_LOWER, strides": Case((1, 2, 8, 7), (4, 2, 3, 5), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "SAME, stride beyond the kernel": Case((1, 2, 9, 9), (4, 2, 1, 2), {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    "VALID": Case((1, 2, 7, 8), (4, 2, 3, 4), {"auto_pad": "VALID", "strides": [2, 1]}),
    "groups": Case((2, 6, 5, 5), (4, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": Case((1, 5, 6, 6), (5, 1, 3, 3), {"group": 5, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "depthwise, multiplied": Case((1, 3, 4, 4), (6, 1, 3, 3), {"group": 3}),
    "1-D": Case((2, 4, 15), (6, 2, 4), {"group": 2, "pads": [3, 1], "strides": [2], "dilations": [2]}),
    "1-D SAME": Case((1, 3, 10), (2, 3, 4), {"auto_pad": "SAME_LOWER", "strides": [3]}),
    "3-D": Case((1, 4, 5, 4, 6), (2, 2, 3, 2, 1), {"group": 2, "pads": [1, 0, 0, 1, 2, 1], "strides": [2, 1, 2]}),
    "Gemm": Case((7, 5), (5, 3), {}, "Gemm"),
    "Gemm, transB": Case((7, 5), (3, 5), {"transB": 1}, "Gemm"),
    "MatMul": Case((7, 5), (5, 3), {}, "MatMul"),
    "MatMul of a stack": Case((2, 3, 4, 5), (5, 3), {}, "MatMul"),
    "MatMul of a vector": Case((5,), (5, 3), {}, "MatMul"),
}


def model_of(case: Case, load: Load) -> ir.Model:
    """One layer without a bias; its output's shape is left to ONNX."""
    net = Network(5)
    weight = net.constant("w", net.random.normal(size=case.weight).astype(np.float32))
    inputs = [net.input("x", list(case.data)), weight]
    net.output(net.node(case.operator, inputs, "y", **case.attributes), [f"d{i}" for i in range(len(case.data))])
    return load(net)


def data(case: Case, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=case.data).astype(np.float32)


def products(layer: Layer, rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Patches [G, K, P] times the weights, in the layout of the layer's output."""
    result = np.einsum("gkp,grk->pgr", rows.astype(np.float64), kernel_matrix(layer))
    if layer.node.op_type != "Conv":
        return result.reshape(like.shape)
    batch, channels, *spatial = like.shape
    return np.moveaxis(result.reshape(batch, *spatial, channels), -1, 1)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_times_weights_are_the_layers_output_at_all_positions(case: Case, load: Load, run_ort: Run) -> None:
    model, x = model_of(case, load), data(case)
    [layer] = find_layers(model.graph)
    [expected] = run_ort(model, {"x": x})
    rows = Patches(layer, ALL)(x, seed=0)
    assert rows.shape[1] == kernel_matrix(layer).shape[2]
    np.testing.assert_allclose(products(layer, rows, expected), expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_seed_takes_the_same_positions(case: Case, load: Load) -> None:
    [layer] = find_layers(model_of(case, load).graph)
    x, most = data(case), 3
    take = Patches(layer, most)
    everything = Patches(layer, ALL)(x, seed=0)
    rows, twice = take(x, seed=5), take(2 * x, seed=5)
    count = min(most, everything.shape[2])
    assert rows.shape == (*everything.shape[:2], count)
    np.testing.assert_array_equal(twice, 2 * rows)
    np.testing.assert_array_equal(Patches(layer, most)(x, seed=5), rows)
    # They are rows of the whole, each position once.
    at = [np.flatnonzero((everything == row[..., None]).all(axis=(0, 1))) for row in np.moveaxis(rows, 2, 0)]
    assert all(len(found) for found in at)
    assert len({int(found[0]) for found in at if len(found) == 1}) == sum(len(found) == 1 for found in at)
    if everything.shape[2] > 20:
        assert any((take(x, seed=seed) != rows).any() for seed in range(6, 9))


def test_positions_are_spread_over_images_and_places(load: Load) -> None:
    case = Case((4, 1, 16, 16), (1, 1, 1, 1))
    [layer] = find_layers(model_of(case, load).graph)
    places = np.arange(4 * 16 * 16, dtype=np.float32).reshape(case.data)
    chosen = Patches(layer, 128)(places, seed=1).ravel()
    assert len(set(chosen)) == 128
    counts = [np.histogram(chosen, 4, (0, 1024))[0], np.histogram(chosen % 16, 4, (0, 16))[0]]
    assert np.min(counts) >= 16, "half of what an even spread gives"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_matrix_goes_back_into_the_weights_it_came_from(case: Case, load: Load) -> None:
    [layer] = find_layers(model_of(case, load).graph)
    back = from_matrix(layer, kernel_matrix(layer), case.weight)
    np.testing.assert_array_equal(back, layer.weight_array)
    assert back.shape == case.weight
