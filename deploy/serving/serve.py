"""Serves engines over HTTP: KServe's v2 protocol, and POST /detect.

    effedge serve ENGINE
    curl --data-binary @photo.jpg http://127.0.0.1:8000/detect

POST /detect takes an image (as the body, or as the file of a form) and answers as `effedge predict --json` writes it:

    {"detections": [{"box": [x0, y0, x1, y1], "score": 0.93, "class_id": 7, "label": "7"}]}

Its query may have threshold, iou, max_detections, classes (labels or ids, with commas between) and class_agnostic; for
a classifier top; and model, where several engines are served. The milliseconds of the steps are in the header
Server-Timing. GET /v2/models/NAME describes a model in KServe's v2 protocol, POST /v2/models/NAME/infer runs it,
GET /v2/health/ready says whether requests are taken, and GET /metrics has metrics for Prometheus.

Errors are JSON too: {"error": "..."}. Where all places are taken, a request is refused (429) rather than queued.
Ctrl-C, SIGTERM and SIGHUP finish what runs, and the exit status is 0 then. Needs the extra `serve`.
"""

# Modules that need NumPy, Starlette or the backend are imported in the functions, so that --help and mistakes answer at
# once.
import argparse
import importlib
from typing import TYPE_CHECKING, Dict

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.manifest import parse_manifest

if TYPE_CHECKING:
    from effedge.deploy.serving.app import Service
    from effedge.deploy.serving.models.load import ServedModel

HOST, PORT = "127.0.0.1", 8000
PACKAGES = {
    "starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}  # fmt: skip


def positive(text: str) -> float:
    """Parses an argument that is a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' was given, expected a number above 0")
    return value


def whole(text: str) -> int:
    """Parses an argument that is a whole number."""
    if not (text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"'{text}' was given, expected a whole number")
    return int(text)


def add_arguments(parser: Parser) -> None:
    """Adds the arguments that `serve` and `demo` have in common."""
    help = "engines' folders, such as build/d0-digits/int8-cpu"
    parser.add_argument("engines", metavar="ENGINE", nargs="+", help=help)
    help = f"address to listen at (default {HOST}: this machine only; 0.0.0.0: every network)"
    parser.add_argument("--host", default=HOST, help=help)
    parser.add_argument("--port", type=whole, default=PORT, help=f"default {PORT}; 0: any free one")
    help = "names that clients call this service by, beside addresses, localhost and the machine's own; '*': any"
    parser.add_argument("--allow-host", metavar="NAME", nargs="+", default=[], help=help)
    help = "requests under way; more are refused with 429 (default 16)"
    parser.add_argument("--places", metavar="N", type=whole, default=16, help=help)
    parser.add_argument("--max-body", metavar="MIB", type=positive, default=32.0, help="of a request (default 32)")
    help = "longest time of a request (default 30)"
    parser.add_argument("--timeout", metavar="SECONDS", type=positive, default=30.0, help=help)


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rate", metavar="N", type=positive, help="most requests a second (default: no limit)")
    help = "time in which a batch is filled, for engines of a batch above 1 (default 2)"
    parser.add_argument("--batch-wait", metavar="MS", type=positive, default=2.0, help=help)
    help = "run several batches at once: more images a second, each with a higher latency"
    parser.add_argument("--throughput", action="store_true", help=help)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_packages()
    from effedge.deploy.serving.models.load import load_models
    from effedge.deploy.serving.server import address_of, listen, run_service

    listener = listen(args.host, args.port)
    models = load_models(args.engines, args.batch_wait / 1000, args.throughput)
    service = make_service(models, args)
    app = service.app(hosts=args.allow_host)
    for name, folder in zip(models, args.engines):
        log.info(f"model {name}: {folder}")
    log.info(f"serving at {address_of(listener)}; Ctrl-C ends it")
    run_service(service, app, listener)


def make_service(models: "Dict[str, ServedModel]", args: argparse.Namespace) -> "Service":
    """Makes the service of models, once each has run."""
    from effedge.deploy.serving.app import Limits, Service

    if args.places < 1:
        raise UserError("--places 0 was given, expected 1 or more")
    backends = {name: str(parse_manifest(folder)["backend"]["name"]) for name, folder in zip(models, args.engines)}
    for model in models.values():
        model.warm_up()
    limits = Limits(args.places, int(args.max_body * (1 << 20)), args.timeout, args.rate)
    return Service(models, backends, limits)


def check_packages() -> None:
    """Raises UserError where a package of the extra `serve` is missing."""
    missing = []
    for module, package in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(f"serving needs {', '.join(missing)}: pip install {' '.join(missing)}")


if __name__ == "__main__":
    from effedge.deploy.common.cli import run

    run(main)
