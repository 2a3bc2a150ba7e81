"""A function over many items by several threads at once, results in the items' order."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterable, Iterator, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """As `map`, with `workers` threads; an exception comes in its item's place, and ends it.

    `items` is read by the caller's thread, never more than twice `workers` ahead of what was yielded, so that memory
    does not grow with their number. With one worker there is no thread.
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
