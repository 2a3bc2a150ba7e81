"""Runs side by side: their order, how many there are at once, and the threads of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph.session import (
    BYTES_AT_ONCE,
    compute,
    live_bytes,
    session,
    side_by_side,
    threads_in,
    threads_of_run,
)
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
CORES = 4
MODULE = "effedge.calibration.graph.session"


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadPoolExecutor(CORES) as pool:
        monkeypatch.setattr(f"{MODULE}.cores", lambda: CORES)
        monkeypatch.setattr(f"{MODULE}._pool", lambda: pool)
        yield


def test_results_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    def wait(item: int) -> int:
        time.sleep(0.02 if item % CORES == 0 else 0)
        return item

    assert list(side_by_side(wait, range(10))) == list(range(10))


def test_no_more_run_at_once_than_there_are_cores_and_no_more_items_are_read_than_are_needed() -> None:
    running, most, read, lock = 0, 0, [], threading.Lock()

    def items() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    def run(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        return item

    results = side_by_side(run, items())
    assert [next(results) for _ in range(8)] == list(range(8))
    results.close()
    assert 1 < most <= CORES and len(read) <= 8 + CORES


def test_an_error_is_raised_in_its_turn() -> None:
    def check(item: int) -> int:
        if item == 3:
            raise ValueError("the third")
        return item

    results = side_by_side(check, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def chain(size: int | None = 64) -> Network:
    """Three convolutions of [1, 8, size, size] one behind the other."""
    net = Network()
    value = net.input("x", [1, 8, size, size])
    for index in range(3):
        value = net.conv(value, f"conv{index}", 8, 8)
    net.output(value, [1, 8, size, size])
    return net


def test_of_a_chain_an_input_and_an_output_are_alive_at_once(load: Load) -> None:
    assert live_bytes(load(chain()).graph) == 2 * 4 * 8 * 64 * 64


def test_a_tensor_that_is_read_later_and_the_outputs_stay_alive(load: Load) -> None:
    model = load(chain())
    values = {node.name: node.outputs[0] for node in model.graph}
    model.graph.outputs.extend([values["conv0"], values["conv1"]])
    assert live_bytes(model.graph) == 3 * 4 * 8 * 64 * 64


@pytest.mark.parametrize(("runs", "threads"), [(8, 1), (4, 1), (2, 2), (1, 4), (0.5, 4)])
def test_a_run_has_more_threads_where_memory_holds_fewer_runs(
    load: Load, monkeypatch: pytest.MonkeyPatch, runs: float, threads: int
) -> None:
    model = load(chain())
    monkeypatch.setattr(f"{MODULE}.BYTES_AT_ONCE", int(runs * live_bytes(model.graph)))
    assert threads_of_run(model) == threads
    assert session(model).get_session_options().intra_op_num_threads == threads


def test_a_model_of_unknown_sizes_runs_alone(load: Load) -> None:
    assert threads_of_run(load(chain(None))) == CORES
    assert live_bytes(load(chain(None)).graph) < BYTES_AT_ONCE


def test_runs_side_by_side_compute_what_runs_one_by_one_do(load: Load) -> None:
    running, feeds = session(load(networks.classifier())), networks.feeds(9)
    together = list(side_by_side(lambda feed: running.run(None, feed)[0], feeds, threads_in(running)))
    np.testing.assert_array_equal(together, [running.run(None, feed)[0] for feed in feeds])


def test_what_is_computed_without_a_copy_stays_as_it_is(load: Load) -> None:
    model = load(networks.classifier())
    feeds = [each for _, each in networks.as_samples(networks.feeds(3, seed=4))]
    names = [value.name or "" for node in model.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    running = session(model, names)
    computed = [compute(running, names, feed) for feed in feeds]
    turned = {name: np.asfortranarray(array) for name, array in feeds[0].items()}  # in another order in memory
    computed.append(compute(running, names, turned))
    for feed, arrays in zip([*feeds, feeds[0]], computed, strict=True):
        for one, other in zip(arrays, running.run(names, feed), strict=True):
            np.testing.assert_array_equal(one, other)
