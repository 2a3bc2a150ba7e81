"""A service in this process, of engines whose answers can be worked out by hand, at a free port of the loopback."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

for package in ("starlette", "uvicorn", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(package, reason=f"{package} is not installed (the extras 'serve' and 'dev')")

import httpx  # noqa: E402

from effedge.deploy.serving.app import Limits, Service  # noqa: E402
from effedge.deploy.serving.models.load import facts, load_models  # noqa: E402
from effedge.deploy.serving.pages import page_routes  # noqa: E402
from effedge.deploy.serving.server import address_of, listen, make_server  # noqa: E402

SECONDS = 20.0


class Running:
    """A running service: `models` are its models by name, `url` is its address, `client` a client of it."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.models, self.url = service, service.models, url
        self.client = httpx.Client(base_url=url, timeout=SECONDS)

    @property
    def model(self) -> Any:
        """The first model."""
        return next(iter(self.models.values()))


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """serve(*folders, samples=None, batch_ms=2, **limits) runs a service, with the demo's page if there are samples."""
    with contextlib.ExitStack() as stack:

        def start(*folders: Path, samples: Any = None, batch_ms: float = 2.0, **limits: Any) -> Running:
            names = [str(folder) for folder in folders]
            models = load_models(names, batch_ms / 1000)
            service = Service(models, {name: "openvino" for name in models}, Limits(**limits))
            routes = []
            if samples is not None:
                described = [facts(folder, model) for folder, model in zip(names, models.values())]
                routes = page_routes(described, samples, service.limits.body_bytes)
            listener = listen("127.0.0.1", 0)
            server = make_server(service, service.app(routes))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            wait_until(lambda: server.started)
            running = Running(service, address_of(listener))

            def stop() -> None:
                running.client.close()
                server.should_exit = server.force_exit = True
                thread.join(SECONDS)
                service.close()

            stack.callback(stop)
            return running

        yield start


@pytest.fixture
def hold() -> Iterator[Callable[[Any], "Held"]]:
    """hold(model) lets the model's engine wait until `release`; it is released at the end of the test in any case."""
    all_held: List[Held] = []

    def start(model: Any) -> Held:
        all_held.append(Held(model))
        return all_held[-1]

    yield start
    for held in all_held:
        held.release()


class Held:
    """A model whose engine waits; `sizes` are the numbers of images of the runs that have begun."""

    def __init__(self, model: Any) -> None:
        self.event, self.sizes, infer = threading.Event(), [], model.batcher.run

        def wait(prepared: List[Any]) -> Any:
            self.sizes.append(len(prepared))
            self.event.wait(SECONDS)
            return infer(prepared)

        model.batcher.run = wait

    def release(self) -> None:
        self.event.set()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
