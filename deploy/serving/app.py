"""Answers HTTP requests with served models: KServe's v2 protocol, POST /detect, and /metrics.

No request computes in the thread of the event loop: a request with a place (admission.py) has a thread of a pool that
has as many.
"""

import asyncio
import contextlib
import importlib
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.deploy.serving.admission import Admission
from effedge.deploy.serving.bodies import read_body, wait_for_disconnect
from effedge.deploy.serving.guard import Guard, refusal_headers
from effedge.deploy.serving.metrics import Metrics
from effedge.deploy.serving.models import inference
from effedge.deploy.serving.models.image_model import Call, ImageModel, Times
from effedge.deploy.serving.models.load import ServedModel
from effedge.deploy.serving.refusal import Refusal
from effedge.deploy.serving.v2_protocol import EXTENSIONS, HEADER_LENGTH, parse_request, write_response

T = TypeVar("T")
VERSION = importlib.import_module("effedge").__version__
FORMS = "multipart/form-data"
# What clients call a body of bytes, beside image/...; the second is what curl --data-binary says.
TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream", FORMS)
V2 = "/v2/models/{name}"


class Limits(NamedTuple):
    """The limits of a service.

    places: requests under way; more are refused.
    body_bytes: of a request.
    seconds: from a request's begin to its answer; the body has to come within it too.
    rate: requests a second, None without a limit.
    """

    places: int = 16
    body_bytes: int = 32 << 20
    seconds: float = 30.0
    rate: Optional[float] = None


class Service:
    """The models that are served, and what their requests share."""

    def __init__(self, models: Dict[str, ServedModel], backends: Dict[str, str], limits: Limits) -> None:
        """Serves models by name; `backends` are the names of their runtimes."""
        self.models, self.backends, self.limits = models, backends, limits
        self.admission = Admission(limits.places, limits.rate)
        self.metrics = Metrics(limits.places, lambda: self.admission.taken)
        self.pool = ThreadPoolExecutor(limits.places, "request")
        self.parsing = threading.Lock()  # the numbers of a JSON text take ten times its size, until they are an array
        for name, model in models.items():
            model.batcher.sizes = self.metrics.batches.labels(name).observe

    def app(self, routes: Iterable[Route] = (), hosts: Iterable[str] = ()) -> Guard:
        """Makes the app: `routes` beside the service's own; `hosts` as Guard takes them."""
        own = {
            "/v2": self.describe_server,
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            V2: self.describe_model,
            f"{V2}/ready": self.model_ready,
            "/metrics": self.write_metrics,
        }
        all_routes = [Route(path, counted(path, answer)) for path, answer in own.items()]
        for path, answer in (("/detect", self.detect), (f"{V2}/infer", self.infer)):
            all_routes.append(Route(path, counted(path, partial(self.with_place, answer)), methods=["POST"]))
        handlers: Dict[Any, Any] = {Refusal: refused, HTTPException: not_routed, UserError: useless}
        return Guard(Starlette(routes=[*all_routes, *routes], exception_handlers=handlers), self.metrics, hosts)

    async def with_place(self, answer: Callable[[Request, bytes, Call], Any], request: Request) -> Response:
        """Answers a request that has a body, as soon as it has a place."""
        call = Call(time.monotonic() + self.limits.seconds)
        with self.admission.place():
            body = await read_body(request, self.limits.body_bytes, self.limits.seconds)
            response: Response = await answer(request, body, call)
            return response

    async def in_thread(self, request: Request, call: Call, function: Callable[[], T]) -> T:
        """Runs a function in the pool. Cancels the call where the client goes away meanwhile."""
        work = asyncio.get_running_loop().run_in_executor(self.pool, function)
        left = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            either: Set[asyncio.Future[Any]] = {work, left}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                call.cancel()
            return await work
        except asyncio.CancelledError:  # the end of the service
            call.cancel()
            raise
        finally:
            left.cancel()

    async def detect(self, request: Request, body: bytes, call: Call) -> Response:
        """Answers POST /detect: the result of an image as JSON, as `effedge predict --json` has it.

        The milliseconds of the steps are in the header Server-Timing.
        """
        content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type not in TYPES and not content_type.startswith("image/"):
            raise Refusal(415, f"the body is {content_type:.80}, expected image/..., {TYPES[1]} or {FORMS}")
        options: Dict[str, List[str]] = {name: request.query_params.getlist(name) for name in request.query_params}
        [name] = options.pop("model", [next(iter(self.models))])[-1:]
        model = self.model(name)
        if not isinstance(model, ImageModel):
            raise Refusal(404, f"model '{name}' takes arrays: POST them to {V2.format(name=name)}/infer")
        image = await form_file(request, body) if content_type == FORMS else body
        answer = await self.in_thread(request, call, partial(model.answer, image, options, call))
        self.metrics.count_steps(name, answer.times)
        return JSONResponse(answer.result.to_dict(), headers={"Server-Timing": server_timing(answer.times)})

    async def infer(self, request: Request, body: bytes, call: Call) -> Response:
        """Answers an inference request."""
        name = request.path_params["name"]
        model = self.model(name)
        length = request.headers.get(HEADER_LENGTH)

        def compute() -> Tuple[bytes, Dict[str, str], List[Times]]:
            with self.parsing:
                asked = parse_request(body, length)
            outputs, times = inference.infer(model, asked, call)
            return (*write_response(name, asked, outputs), times)

        content, headers, times = await self.in_thread(request, call, compute)
        for image_times in times:
            self.metrics.count_steps(name, image_times)
        return Response(content, headers=headers)

    def model(self, name: str) -> ServedModel:
        """Returns a model. Raises Refusal (404) for an unknown name."""
        if name not in self.models:
            raise Refusal(404, f"there is no model '{name:.80}': expected one of {', '.join(self.models)}")
        return self.models[name]

    async def describe_server(self, _: Request) -> Response:
        """Answers with the server's metadata."""
        return JSONResponse({"name": "effedge", "version": VERSION, "extensions": EXTENSIONS})

    async def describe_model(self, request: Request) -> Response:
        """Answers with a model's metadata."""
        name = request.path_params["name"]
        return JSONResponse(inference.metadata(self.model(name), self.backends.get(name, "unknown")))

    async def live(self, _: Request) -> Response:
        """Answers that the server runs."""
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        """Answers whether requests are taken: 503 while the service stops, and after an engine's failure."""
        ready = not self.admission.stopping and not any(model.failed for model in self.models.values())
        return JSONResponse({"live": True, "ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """Answers whether a model takes requests."""
        model = self.model(request.path_params["name"])
        ready = not self.admission.stopping and not model.failed
        return JSONResponse({"name": model.name, "ready": ready}, 200 if ready else 503)

    async def write_metrics(self, _: Request) -> Response:
        """Answers with the metrics."""
        content, content_type = self.metrics.text()
        return Response(content, headers={"Content-Type": content_type})

    def close(self) -> None:
        """Ends the threads, once what runs has ended."""
        self.pool.shutdown()
        for model in self.models.values():
            model.close()


def counted(path: str, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Names the route in the request's scope, for the metrics, and answers where the service fails.

    Starlette would raise the error again after its answer, and uvicorn closes the connection then, which other requests
    may be on their way by.
    """

    async def endpoint(request: Request) -> Response:
        request.scope["effedge.path"] = path
        try:
            response: Response = await answer(request)
            return response
        except (Refusal, HTTPException, UserError):
            raise
        except Exception as error:
            log.warning(f"error: {path} failed\n{traceback.format_exc()}")
            return JSONResponse({"error": f"the service failed: {type(error).__name__}, see its log"}, 500)

    return endpoint


async def form_file(request: Request, body: bytes) -> bytes:
    """Returns the file of a form. Raises Refusal (400) for a form with none or several."""

    async def receive() -> Dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    files: List[bytes] = []
    with contextlib.suppress(HTTPException):  # of a form that breaks the rules
        async with Request(request.scope, receive).form(max_files=2, max_fields=16) as form:
            files = [await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if len(files) != 1:
        raise Refusal(400, f"the form has {len(files) or 'no'} files, expected one: an image")
    return files[0]


def server_timing(times: Times) -> str:
    """Writes the header Server-Timing (W3C), which browsers show."""
    return ", ".join(f"{step};dur={milliseconds:.3f}" for step, milliseconds in times.items())


async def refused(_: Request, refusal: Refusal) -> Response:
    """Answers a request that is refused."""
    return JSONResponse({"error": str(refusal)}, refusal.status, dict(refusal_headers(refusal)))


async def not_routed(_: Request, error: HTTPException) -> Response:
    """Answers a request that no route takes."""
    expected = "; expected POST /detect, or a path of KServe's v2 protocol, such as GET /v2"
    return JSONResponse({"error": f"{error.detail}{expected}"}, error.status_code, error.headers)


async def useless(_: Request, error: UserError) -> Response:
    """Answers a request whose result is none, as of an engine that computes NaN."""
    log.warning(f"error: {error}")
    return JSONResponse({"error": " ".join(str(error).split())}, 500)
