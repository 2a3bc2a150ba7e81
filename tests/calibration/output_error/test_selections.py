"""The rows that a model selects: found in graphs, and judged in any order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.session import session
from effedge.calibration.output_error import selections
from effedge.calibration.output_error.kinds import Choice, choose_judges
from effedge.calibration.output_error.measure import OutputError
from effedge.calibration.output_error.selections import Rows, rows_error
from effedge.engines.comparison import nearness
from tests.calibration.networks import Network

SIDE, POINTS, SAMPLES = 16, 10, 6
Runs = list[list[np.ndarray]]


def points(net: Network) -> None:
    """The places and the scores of a map's highest cells, as M-LSD finds lines."""
    x = net.input("x", [1, 1, SIDE, SIDE])
    flat = net.node("Reshape", [net.conv(x, "conv", 1, 1), net.constant("flat", np.array([1, SIDE**2]))], "cells")
    inputs = [flat, net.constant("k", np.array([POINTS]))]
    net.nodes.append(helper.make_node("TopK", inputs, ["top", "place"], name="select"))
    side, axis = net.constant("side", np.array(SIDE)), net.constant("axis", np.array([2]))
    rows, columns = net.node("Div", ["place", side], "row"), net.node("Mod", ["place", side], "column")
    parts = [net.node("Unsqueeze", [each, axis], f"{each}3") for each in (rows, columns)]
    net.output(net.node("Concat", parts, "where", axis=2), [1, POINTS, 2], TensorProto.INT64)
    net.output(net.node("Sigmoid", ["top"], "score"), [1, POINTS])


def places(net: Network) -> None:
    """The places themselves."""
    points(net)
    net.outputs.clear()
    net.output(net.node("Cast", ["place"], "label", to=TensorProto.INT32), [1, POINTS], TensorProto.INT32)


def nonzero(net: Network) -> None:
    """The highest cells, as many as are above a level."""
    x = net.input("x", [1, 1, SIDE, SIDE])
    above = net.node("Greater", [net.conv(x, "conv", 1, 1), net.constant("level", np.float32(0.4))], "above")
    found = net.node("Transpose", [net.node("NonZero", [above], "found")], "cells", perm=[1, 0])
    net.output(found, ["n", 4], TensorProto.INT64)


def run_of(make: Callable[[Network], None]) -> tuple[ir.Model, Runs]:
    """A model, and its outputs on some samples."""
    net = Network()
    make(net)
    model = onnx_file.prepare(ir.from_proto(net.proto()))
    running, random = session(model), np.random.default_rng(1)
    samples = [random.normal(0, 2, (1, 1, SIDE, SIDE)).astype(np.float32) for _ in range(SAMPLES)]
    return model, [running.run(None, {"x": sample}) for sample in samples]


def error(choice: Choice, runs: Runs, got: Runs) -> float:
    measure = OutputError(choice.judges, runs)
    return float(np.mean([measure.of(index, outputs) for index, outputs in enumerate(got)]))


@pytest.mark.parametrize("make", [points, places, nonzero])
def test_selected_rows_are_judged_in_any_order(make: Callable[[Network], None]) -> None:
    model, runs = run_of(make)
    choice = choose_judges(model, runs)
    assert set(choice.texts.values()) == {"rows that the model selects, in any order"} and len(choice.judges) == 1
    axis = 1 if make is not nonzero else 0
    assert error(choice, runs, [[np.flip(output, axis) for output in run] for run in runs]) == 0
    assert error(choice, runs, [*runs[1:], runs[0]]) == pytest.approx(1)
    fewer = [[np.delete(output, -1, axis) for output in run] for run in runs]
    assert 0 < error(choice, runs, fewer) < 0.5


def test_places_that_a_top_k_finds_are_equal_or_not_and_coordinates_are_near_or_far() -> None:
    for make, next_to_it_is_near in ((points, True), (places, False)):
        model, runs = run_of(make)
        moved = [[run[0] + 1 - run[0] % 2 * 2, *run[1:]] for run in runs]  # each to the cell beside it
        assert (error(choose_judges(model, runs), runs, moved) < 0.1) == next_to_it_is_near


def test_rows_weigh_by_the_scores_that_they_are_sorted_by() -> None:
    model, runs = run_of(points)
    for run in runs:
        run[1][0] = np.linspace(1, 0, POINTS, dtype=np.float32)
    choice = choose_judges(model, runs)

    def far(row: int) -> float:
        got = [[output.copy() for output in run] for run in runs]
        for run in got:
            run[0][0, row] += 1000
        return error(choice, runs, got)

    assert far(0) > 5 * far(POINTS - 2) > 0


def test_two_selections_of_one_length_are_judged_apart() -> None:
    """Joined, a row of the one would lose the row of the other that is beside it."""
    net = Network()
    for name in ("a", "b"):
        inputs = [net.input(name, [1, SIDE]), net.constant(f"{name}_k", np.array([POINTS]))]
        net.nodes.append(helper.make_node("TopK", inputs, [f"{name}_top", f"{name}_at"], name=f"{name}_select"))
        net.output(net.node("Neg", [f"{name}_top"], f"{name}_out"), [1, POINTS])
    model = onnx_file.prepare(ir.from_proto(net.proto()))
    random = np.random.default_rng(0)
    runs = [[random.normal(size=(1, POINTS)).astype(np.float32) for _ in range(2)] for _ in range(SAMPLES)]
    choice = choose_judges(model, runs)
    assert len(choice.judges) == 2
    assert error(choice, runs, [[one, other[:, ::-1]] for one, other in runs]) == 0


def test_a_user_s_word_decides() -> None:
    model, runs = run_of(points)
    texts = choose_judges(model, runs, kinds={"where": "labels"}).texts
    assert texts["where"] == "labels" and texts["score"] == "rows that the model selects, in any order"


def test_the_distance_of_rows_is_that_of_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop over all pairs; and in chunks, and with rows left out."""
    random = np.random.default_rng(0)
    one, other = (Rows(random.normal(0, 0.5, (count, 3)), random.uniform(size=count)) for count in (7, 5))
    total = 0.0
    for rows, among in ((one, other), (other, one)):
        for row, weight in zip(rows.values, rows.weights, strict=True):
            total += weight * min(1, min(np.square(row - each).sum() for each in among.values))
    wanted = total / (one.weights.sum() + other.weights.sum())
    assert rows_error(one, other) == pytest.approx(wanted)
    monkeypatch.setattr(nearness, "CHUNK", 10)
    assert rows_error(one, other) == pytest.approx(wanted)
    monkeypatch.setattr(selections, "MOST_ROWS", 4)
    assert 0 < rows_error(one, other) <= 1
    empty = Rows(np.zeros((0, 3)), np.zeros(0))
    assert rows_error(one, empty) == rows_error(empty, one) == 1 and rows_error(empty, empty) == 0
    assert rows_error(one, Rows(one.values, 0 * one.weights)) == pytest.approx(0)


def test_places_in_a_shape_are_no_selection() -> None:
    """As an exporter writes a gather over all rows of a dynamic batch: NonZero of ones."""
    net = Network()
    x = net.input("x", ["N", 3, 8, 8])
    pooled = net.node("Flatten", [net.node("GlobalAveragePool", [net.conv(x, "a", 3, 10)], "pool")], "flat")
    ones = net.node("ConstantOfShape", [net.node("Shape", [pooled], "shape")], "ones")
    where = net.node("Transpose", [net.node("NonZero", [ones], "where")], "places")
    gathered = net.node("GatherND", [pooled, where], "gathered")
    net.output(net.node("Reshape", [gathered, "shape"], "y"), ["N", 10])
    model = onnx_file.prepare(ir.from_proto(net.proto()))
    runs = [[np.random.default_rng(seed).normal(size=(1, 10)).astype(np.float32)] for seed in range(SAMPLES)]
    assert "selects" not in choose_judges(model, runs).texts["y"]
