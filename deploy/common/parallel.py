"""Applies a function to many items by several threads, and yields the results in the items' order."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterable, Iterator, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yields the function's results in the items' order, as `map` does, with `workers` threads.

    An exception is raised in its item's place and ends the iteration. `items` is read by the caller's thread, never
    more than twice `workers` items ahead of the last result, so memory does not grow with their number. One worker is
    the caller's thread.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pending: Deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
