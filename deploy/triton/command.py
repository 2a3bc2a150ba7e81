"""Writes a model repository for NVIDIA Triton: engines with their pre- and post-processing, as ensembles.

    effedge triton build/d0-digits/int8-cpu --out repository

Of each engine NAME (such as d0-int8) the repository has the ensembles NAME, whose input `image` is RGB, UINT8
[N,h,w,3], and NAME-file, whose `image` is the bytes of image files, BYTES [N,1]. The outputs are those of
`effedge serve`: num_detections, boxes (xyxy in the image's pixels), scores, classes, labels. A request's parameters
may be threshold, iou, max_detections, classes and class_agnostic; for a classifier top.

TensorRT's plans are run by Triton's own backend, and other engines by effedge's runtime in Triton's Python backend,
with exactly the results of effedge. The last line is the command that starts a server.
"""

# Modules that need NumPy are imported in the functions, so that --help and mistakes answer at once.
import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, List

from effedge.deploy.common.cli import Parser, UserError, number_within
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_folder

if TYPE_CHECKING:
    from effedge.deploy.triton.configs import Served

CONTAINER = "nvcr.io/nvidia/tritonserver"
RELEASE = "25.03"  # for engines that are not bound to a release: one with Python 3.12, which today's packages support
MOST_INSTANCES = 64


def whole(text: str) -> int:
    """Parses the number of instances."""
    if not (text.isdecimal() and len(text) < 4 and 1 <= int(text) <= MOST_INSTANCES):
        raise argparse.ArgumentTypeError(f"'{text}' was given, expected a whole number from 1 to {MOST_INSTANCES}")
    return int(text)


def milliseconds(text: str) -> int:
    """Parses milliseconds to microseconds."""
    return round(1000 * number_within(text, 10_000, "milliseconds from 0 to 10000"))


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    help = "engines' folders, such as build/d0-digits/int8-cpu"
    parser.add_argument("engines", metavar="ENGINE", nargs="+", help=help)
    help = "the repository's folder; one that effedge wrote is replaced, with all of its models"
    parser.add_argument("--out", metavar="FOLDER", type=output_folder, required=True, help=help)
    help = "Triton's backend for the engines themselves (default: tensorrt for its plans, otherwise python)"
    parser.add_argument("--backend", choices=("tensorrt", "onnxruntime", "python"), help=help)
    help = "instances of each engine, on each GPU (default 1)"
    parser.add_argument("--instances", metavar="N", type=whole, default=1, help=help)
    help = "time in which a batch is filled, for engines of a batch above 1 (default 2)"
    parser.add_argument("--batch-wait", metavar="MS", type=milliseconds, default="2", help=help)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from effedge.deploy.triton.repository import write_repository

    engines = read_engines(args)
    write_repository(args.out, engines)
    for served in engines:
        log.info(f"model {served.name}: {served.folder}, by Triton's {served.backend} backend")
    if any(served.backend != "python" or served.on_gpu for served in engines):
        log.warning(
            "note: untested: no Triton has run such a repository yet, only engines for CPUs by the Python backend; "
            "compare its results with those of effedge predict"
        )
    print(start_line(args.out, engines))


def read_engines(args: argparse.Namespace) -> "List[Served]":
    """Reads and checks the engines. Raises UserError."""
    from effedge.deploy.common.cli import choose
    from effedge.deploy.runtime.manifest import read_manifest
    from effedge.deploy.serving.models.load import names_of
    from effedge.deploy.triton.configs import SERVED_BY, Served

    engines = []
    for folder, name in zip(args.engines, names_of(args.engines)):
        manifest = read_manifest(folder)
        runtime = choose("backend", str(manifest["backend"].get("name")), SERVED_BY)
        if not manifest.get("inputs") or not manifest.get("outputs"):
            raise UserError(f"'{folder}' has a damaged manifest (no inputs or outputs): build the engine again")
        backend = args.backend or SERVED_BY[runtime][0]
        engines.append(Served(Path(folder), name, manifest, backend, args.instances, args.batch_wait))
    return engines


def start_line(out: Path, engines: "List[Served]") -> str:
    """Returns the command that starts a server in NVIDIA's container, with the packages that the models need."""
    from effedge.deploy.runtime.backends import BACKENDS

    release, gpu, packages = RELEASE, False, {"pillow"}
    for served in engines:
        backend = served.manifest["backend"]
        gpu |= served.on_gpu
        if served.backend == "tensorrt":
            release = f"RELEASE_WITH_TENSORRT_{backend.get('version', '')}"
        elif served.backend == "python":
            version = re.match(r"\d+(\.\d+)+", backend.get("version", ""))
            packages.add(BACKENDS[backend["name"]][1] + (f"=={version.group()}" if version else ""))
    inside = f"pip install {' '.join(sorted(packages))} && tritonserver --model-repository /models"
    return (
        f"docker run --rm {'--gpus all ' if gpu else ''}--shm-size 1g -p 8000:8000 -p 8001:8001 "
        f"-v {shlex.quote(f'{out.resolve()}:/models:ro')} {CONTAINER}:{release}-py3 sh -c {shlex.quote(inside)}"
    )


if __name__ == "__main__":
    from effedge.deploy.common.cli import run

    run(main)
