"""Items of many threads run in batches, in threads of the batcher."""

import threading
import time

import pytest

from effedge.deploy.serving.models.batcher import Batcher
from tests.deploy.serving.conftest import wait_until


def test_results_go_to_their_items_in_batches_of_at_most_four():
    sizes = []
    batcher = Batcher(lambda items: [2 * item for item in items], 4, 0.2, 1, "test")
    batcher.sizes = sizes.append
    futures = [batcher.submit(number) for number in range(10)]
    assert [future.result(10).result for future in futures] == [2 * number for number in range(10)]
    assert max(sizes) == 4 and sum(sizes) == 10
    batcher.close()


def test_a_batch_is_not_waited_for_longer_than_was_said():
    batcher = Batcher(lambda items: items, 4, 0.05, 1, "test")
    started = time.monotonic()
    done = batcher.submit(1).result(10)
    assert time.monotonic() - started < 5 and done.queue_ms >= 49 and done.run_ms >= 0
    batcher.close()


def test_an_error_is_that_of_every_item_of_the_batch_and_the_next_batch_runs():
    def run(items):
        if "bad" in items:
            raise ValueError("bad")
        return items

    batcher = Batcher(run, 2, 0.2, 1, "test")
    futures = [batcher.submit("bad"), batcher.submit("good")]
    for future in futures:
        with pytest.raises(ValueError, match="bad"):
            future.result(10)
    assert batcher.submit("good").result(10).result == "good"
    batcher.close()


def test_what_is_cancelled_does_not_run():
    begun, go_on, ran = threading.Event(), threading.Event(), []

    def run(items):
        begun.set()
        go_on.wait(10)
        ran.extend(items)
        return items

    batcher = Batcher(run, 1, 0, 1, "test")
    first, second, third = (batcher.submit(number) for number in range(3))
    assert begun.wait(10) and second.cancel()
    go_on.set()
    assert third.result(10).result == 2 and first.result(10).result == 0
    assert ran == [0, 2]
    batcher.close()


def test_close_runs_what_waits_and_ends_all_threads():
    batcher = Batcher(lambda items: items, 2, 0.01, 3, "test")
    futures = [batcher.submit(number) for number in range(20)]
    batcher.close()
    assert all(future.done() for future in futures)
    wait_until(lambda: not any(thread.is_alive() for thread in batcher.threads))


def test_several_threads_run_at_once():
    together = threading.Barrier(2)

    def run(items):
        together.wait(10)  # raises BrokenBarrierError if only one thread runs
        return items

    batcher = Batcher(run, 1, 0, 2, "test")
    futures = [batcher.submit(number) for number in range(2)]
    assert [future.result(20).result for future in futures] == [0, 1]
    batcher.close()
