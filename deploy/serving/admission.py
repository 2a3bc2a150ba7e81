"""Admits requests to a service, and refuses those that it has no place for: a queue that grows only adds latency.

A request has a place from its first byte to its answer, so the number of places bounds the memory too. All of this is
called by the thread of the event loop, and needs no lock.
"""

import contextlib
import math
import time
from typing import Iterator, Optional

from effedge.deploy.serving.refusal import Refusal

BUSY, MANY, STOPPING = 429, 429, 503
BURST_SECONDS = 1.0  # requests that came in no more than this time are admitted at once


class Admission:
    """The places of a service.

    Attributes:
        taken: the number of requests that have one.
        stopping: whether new requests are refused, since the service is about to end.
    """

    def __init__(self, places: int, rate: Optional[float] = None) -> None:
        """Makes `places`; with `rate`, no more than so many requests a second are admitted (token bucket)."""
        self.places, self.rate = places, rate
        self.taken, self.stopping = 0, False
        self.tokens = self.burst = max(1.0, (rate or 0.0) * BURST_SECONDS)
        self.refilled = time.monotonic()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Keeps a place within the block. Raises Refusal without a free one."""
        if self.stopping:
            raise Refusal(STOPPING, "the service is stopping: ask another one", 1)
        if self.taken >= self.places:
            raise Refusal(BUSY, f"all {self.places} places are taken: try again in a second", 1)
        self.take_token()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def take_token(self) -> None:
        """Counts a request. Raises Refusal if it comes too soon for `rate`."""
        if self.rate is None:
            return
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + self.rate * (now - self.refilled))
        self.refilled = now
        if self.tokens < 1:
            wait = math.ceil((1 - self.tokens) / self.rate)
            raise Refusal(MANY, f"more than {self.rate:g} requests a second: try again in {wait} s", wait)
        self.tokens -= 1
