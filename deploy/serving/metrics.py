"""Counts what a service does, for Prometheus.

prometheus_client is pure Python without dependencies, 0.6 MB, and runs on Python 3.8: not too much for a board, and the
escapes and suffixes of the text format are its own concern.
"""

from typing import Callable, Dict, Tuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, exposition

# From a ms, of a classifier's engine on a GPU, to the longest that a request may take by default.
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of a service. The memory and CPU of its process are among them, where there is a /proc."""

    def __init__(self, places: int, taken: Callable[[], int]) -> None:
        """Makes them; `places` is the number of requests that may be under way, `taken` returns how many are."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        name = "effedge_requests"
        self.requests = Counter(name, "Requests by path and status", ["path", "status"], registry=self.registry)
        name = "effedge_request_seconds"
        self.seconds = Histogram(name, "Time to the answer", ["path"], buckets=SECONDS, registry=self.registry)
        name = "effedge_step_seconds"
        help = "Time of a step of an image's work"
        self.steps = Histogram(name, help, ["model", "step"], buckets=SECONDS, registry=self.registry)
        name = "effedge_batch_images"
        self.batches = Histogram(name, "Images of a run", ["model"], buckets=BATCHES, registry=self.registry)
        Gauge("effedge_places", "Requests that may be under way", registry=self.registry).set(places)
        under_way = Gauge("effedge_requests_under_way", "Requests that are under way", registry=self.registry)
        under_way.set_function(taken)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request; `path` is the pattern of the route, of which there are few."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def count_steps(self, model: str, times: Dict[str, float]) -> None:
        """Counts the milliseconds of the steps of an image."""
        for step, milliseconds in times.items():
            self.steps.labels(model, step).observe(milliseconds / 1000)

    def text(self) -> Tuple[bytes, str]:
        """Returns the metrics as Prometheus reads them, with their content type."""
        return exposition.generate_latest(self.registry), exposition.CONTENT_TYPE_LATEST
