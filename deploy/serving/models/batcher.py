"""Runs an engine in threads of its own, for requests of other threads, and collects the requests to batches."""

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple


class Done(NamedTuple):
    """The result of an item, with the milliseconds that the item waited and that its batch ran."""

    result: Any
    queue_ms: float
    run_ms: float


class Batcher:
    """Threads that run batches of items.

    The first item is waited for; then more are taken until the batch is full or `seconds` are over. Items that were
    cancelled meanwhile are left out. Nothing limits the number of waiting items: the service does (admission.py).
    """

    def __init__(
        self, run: Callable[[List[Any]], Sequence[Any]], most: int, seconds: float, threads: int, name: str
    ) -> None:
        """Starts the threads.

        Args:
            run: from the items of a batch to their results, in order.
            most: the largest number of items in a batch.
            seconds: the time in which a batch is filled, after its first item.
            threads: the number of batches that run at once.
            name: of the threads.
        """
        self.run, self.most, self.seconds = run, most, seconds
        self.waiting: queue.Queue[Optional[Tuple[Any, Future[Done], float]]] = queue.Queue()
        self.sizes: Callable[[int], None] = lambda size: None  # is called with the size of every batch
        self.threads = [threading.Thread(target=self.work, name=name, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def submit(self, item: Any) -> "Future[Done]":
        """Adds an item to the queue. Its Future holds what `run` raised, if it did."""
        future: Future[Done] = Future()
        self.waiting.put((item, future, time.perf_counter()))
        return future

    def close(self) -> None:
        """Ends the threads, once everything that waits has run."""
        self.waiting.put(None)
        for thread in self.threads:
            thread.join()

    def work(self) -> None:
        """Runs batches until `close`: the target of a thread."""
        while True:
            batch = self.collect()
            if not batch:
                return
            running = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
            if not running:
                continue
            started = time.perf_counter()
            self.sizes(len(running))
            try:
                results = self.run([item for item, _, _ in running])
            except BaseException as error:  # whatever it is, it is the waiting requests' answer
                for _, future, _ in running:
                    future.set_exception(error)
                continue
            run_ms = 1000 * (time.perf_counter() - started)
            for (_, future, submitted), result in zip(running, results):
                future.set_result(Done(result, 1000 * (started - submitted), run_ms))

    def collect(self) -> "List[Tuple[Any, Future[Done], float]]":
        """Waits for a batch; returns an empty list at the end."""
        batch: List[Tuple[Any, Future[Done], float]] = []
        until = 0.0
        while len(batch) < self.most:
            try:
                entry = self.waiting.get(timeout=max(0.0, until - time.perf_counter())) if batch else self.waiting.get()
            except queue.Empty:
                break
            if entry is None:
                self.waiting.put(None)  # for the other threads
                break
            batch.append(entry)
            if len(batch) == 1:
                until = time.perf_counter() + self.seconds
        return batch
