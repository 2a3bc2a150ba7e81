"""Measures an engine's latency, step by step.

    effedge latency ENGINE [IMAGES]

Each run takes a batch through all steps: decode (from the disk), prepare (letterbox or crop), engine, select (NMS, or
the best classes). The end-to-end time is their sum. Without IMAGES (an image or a folder) a synthetic image is used;
then the selection has little to do. The board's power mode, clocks, temperatures and throttling are read before and
after (deploy/timing/board.py). Runs begin once the machine has warmed up. Throughput mode does the steps of several
images in parallel.

--raw prints one latency in ms a line, of the engine only, to be compared with other tools' by scripts; with
--end-to-end, from a decoded image to its detections or classes.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence, TypedDict

from effedge.deploy.common.cli import Parser
from effedge.deploy.common.contracts import BackendDescription, Manifest
from effedge.deploy.common.files import check_output_path, write_json
from effedge.deploy.common.paths import json_file, output_file
from effedge.deploy.native.compiled_library import COMPILED
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.deploy.timing.board_notes import board_lines

if TYPE_CHECKING:
    from effedge.deploy.timing.board import Board
    from effedge.deploy.timing.machine import Machine
    from effedge.deploy.timing.throughput import Throughput
    from effedge.deploy.timing.workload import Times, Workload

SECONDS = 10.0
LEAST_RUNS, MOST_RUNS = 20, 1000
ON_CPU = ("openvino", "onnxruntime")
UNCOMPILED = "Pillow and NumPy"
PACKAGES = ("numpy", "pillow", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "pycuda")


class Identity(TypedDict):
    """An engine that was timed: its folder, and facts of its manifest; `files` are the hashes of its files."""

    folder: str
    model: Optional[str]
    precision: Optional[str]
    target: Optional[str]
    backend: BackendDescription
    files: Dict[str, str]


class BoardReadings(TypedDict):
    """The board before and after a measurement."""

    before: "Board"
    after: "Board"


class LatencyReport(TypedDict):
    """The content of --json; by step, `steps` are the figures and `samples_ms` are all latencies."""

    format: int
    engine: Identity
    machine: "Machine"
    board: BoardReadings
    versions: Dict[str, str]
    letterbox_and_nms: Optional[str]
    cpu_blocks: Optional[str]
    cuda: Optional[str]
    images: int
    batch: Optional[int]
    load_ms: float
    warm_up_runs: int
    runs: int
    steps: Dict[str, Dict[str, float]]
    throughput: Optional["Throughput"]
    samples_ms: Dict[str, List[float]]


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="an engine's folder, such as build/d0-digits/int8-cpu")
    parser.add_argument("images", metavar="IMAGES", nargs="?", help="an image, or a folder of images")
    count = f"runs to time (default: {SECONDS:g} seconds of them)"
    parser.add_argument("--iterations", metavar="N", type=int, help=count)
    parser.add_argument("--batch", metavar="N", type=int, help="images a run (default: the engine's usual batch)")
    parser.add_argument("--no-throughput", action="store_true", help="leave throughput mode out")
    parser.add_argument(
        "--json", metavar="FILE", type=json_file, help="write figures, machine, versions and every latency"
    )
    parser.add_argument("--plot", metavar="FILE.png", type=output_file, help="draw a histogram (needs matplotlib)")
    parser.add_argument("--raw", action="store_true", help="one latency in ms a line, of the engine only")
    parser.add_argument("--end-to-end", action="store_true", help="with --raw: from a decoded image to the result")
    args = parser.parse_args()
    if args.iterations is not None and args.iterations < 1:
        parser.error(f"--iterations {args.iterations}: expected 1 or more")
    if args.end_to_end and not args.raw:
        parser.error("--end-to-end goes with --raw: without it every step is reported anyway")
    if args.raw and (args.json or args.plot):
        parser.error("--raw prints latencies only: leave --json and --plot out")
    return args


def main() -> None:
    args = parse_args()
    from effedge.deploy.image.files import find_images

    images = [] if args.images is None else find_images(args.images)
    for path in (args.json, args.plot):
        if path is not None:
            check_output_path(path)
    if args.raw:
        print_raw(args, images)
        return
    report = measure(args.engine, images, args.iterations, args.batch, not args.no_throughput)
    print(table(report))
    if args.json is not None:
        write_json(args.json, report)
        print(f"json: {args.json}")
    if args.plot is not None:
        from effedge.deploy.timing.latency_plot import plot_histogram

        plot_histogram(report, args.plot)
        print(f"plot: {args.plot}")


def print_raw(args: argparse.Namespace, images: Sequence[Path]) -> None:
    """Prints every latency on a line, as soon as it is known."""
    from effedge.deploy.timing.percentiles import warm_up
    from effedge.deploy.timing.workload import make_workload

    work = make_workload(args.engine, images, args.batch, decode=False)
    once = (lambda: sum(work.run().values())) if args.end_to_end else work.time_engine
    warm_up(once)
    for _ in counted(args.iterations):
        print(f"{once():.3f}", flush=True)


def measure(
    folder: str,
    images: Sequence[Path],
    iterations: Optional[int] = None,
    batch: Optional[int] = None,
    with_throughput: bool = True,
) -> LatencyReport:
    """Measures the report that --json writes. Raises UserError as `effedge.deploy.timing.workload.make_workload`."""
    from effedge.deploy.runtime.backends import cuda_called_by, first_blocks_computed_by
    from effedge.deploy.timing.board import board
    from effedge.deploy.timing.machine import machine, versions
    from effedge.deploy.timing.percentiles import per_second, summarize, warm_up
    from effedge.deploy.timing.throughput import throughput
    from effedge.deploy.timing.workload import END_TO_END, make_workload

    manifest = parse_manifest(folder)
    started = time.perf_counter()
    work = make_workload(folder, images, batch)
    load_ms = 1000 * (time.perf_counter() - started)
    warming = warm_up(lambda: sum(work.run().values()))
    before = board()
    times = collect(work, iterations)
    after = board()  # at once, while the clocks are still up
    if len(work.steps) > 1:
        times[END_TO_END] = [sum(row) for row in zip(*times.values())]
    steps = {name: {**summarize(row), "per_second": per_second(row, work.batch or 1)} for name, row in times.items()}
    parallel = None
    if work.batch is not None and with_throughput:
        latency = steps[END_TO_END]["p50"]
        count = max(LEAST_RUNS, min(MOST_RUNS, int(1000 * SECONDS / 2 / latency))) * work.batch
        parallel = throughput(folder, manifest["spec"]["task"], images, count, latency, work.batch)
    return {
        "format": 1,
        "engine": identity(folder, manifest),
        "machine": machine(),
        "board": {"before": before, "after": after},
        "versions": versions(PACKAGES),
        "letterbox_and_nms": letterbox_and_nms(manifest),
        "cpu_blocks": first_blocks_computed_by(folder, manifest),
        "cuda": cuda_called_by(folder, manifest),
        "images": len(images),
        "batch": work.batch,
        "load_ms": round(load_ms, 1),
        "warm_up_runs": warming,
        "runs": len(next(iter(times.values()))),
        "steps": steps,
        "throughput": parallel,
        "samples_ms": {name: [round(value, 4) for value in row] for name, row in times.items()},
    }


def letterbox_and_nms(manifest: Manifest) -> Optional[str]:
    """Names the library that does a detector's letterbox and NMS on the CPU; None for other engines."""
    from effedge.deploy.native.letterbox_nms.library import load_letterbox_nms

    if manifest["spec"].get("task") != "detection" or manifest["backend"]["name"] not in ON_CPU:
        return None
    return UNCOMPILED if load_letterbox_nms() is None else COMPILED


def first_blocks_notes(computed_by: Optional[str]) -> List[str]:
    """Returns a line if an engine has CPU blocks and they do not compute its first blocks on this machine."""
    if computed_by in (None, COMPILED):
        return []
    return [f"the first blocks are not computed in C++, as {computed_by}: that is slower"]


def identity(folder: str, manifest: Manifest) -> Identity:
    """Reads the identity of an engine from its manifest."""
    precision = manifest.get("precision")
    return {
        "folder": str(folder),
        "model": manifest["spec"].get("model"),
        "precision": precision.get("asked") if precision else None,
        "target": manifest.get("target"),
        "backend": manifest["backend"],
        "files": manifest["files"],
    }


def counted(iterations: Optional[int]) -> Iterator[int]:
    """Counts to `iterations`; without it for ten seconds, but at least to 20 and at most to 1,000."""
    if iterations is not None:
        yield from range(iterations)
        return
    end = time.perf_counter() + SECONDS
    for index in range(MOST_RUNS):
        if index >= LEAST_RUNS and time.perf_counter() > end:
            return
        yield index


def collect(work: "Workload", iterations: Optional[int]) -> Dict[str, List[float]]:
    """Runs again and again, and returns the milliseconds by step. A line on a terminal shows the number of runs."""
    times: Dict[str, List[float]] = {name: [] for name in work.steps}
    shown = time.perf_counter()
    for index in counted(iterations):
        row: Times = work.run()
        for name in work.steps:
            times[name].append(row[name])
        if sys.stderr.isatty() and time.perf_counter() - shown > 0.5:
            shown = time.perf_counter()
            print(f"\rmeasuring: run {index + 1}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return times


def table(report: LatencyReport) -> str:
    """Writes the report for a reader."""
    engine, machine = report["engine"], report["machine"]
    batch = "" if report["batch"] is None else f", batch {report['batch']}"
    backend = f"{engine['backend']['name']} {engine['backend'].get('version', '')}".strip()
    if report.get("cuda"):  # an earlier effedge, on a board, does not say
        backend += f", CUDA called by {report['cuda']}"
    lines = [
        f"{engine['folder']}: {engine['precision']}{batch}, {backend}",
        f"{machine['cpu']}, {machine['cores']} cores; {report['runs']} runs after {report['warm_up_runs']} to warm up; "
        f"loaded in {report['load_ms']:.0f} ms",
        *board_lines(report["board"]["before"], report["board"]["after"]),
        f"{'ms':<12}" + "".join(f"{name:>9}" for name in ("p50", "p90", "p99", "min", "a second")),
    ]
    for name, row in report["steps"].items():
        figures = [row[key] for key in ("p50", "p90", "p99", "min")]
        lines.append(f"{name:<12}" + "".join(f"{value:9.2f}" for value in figures) + f"{row['per_second']:9.1f}")
    if report.get("letterbox_and_nms") == UNCOMPILED:  # an earlier effedge, on a board, does not say
        lines.append(f"letterbox and NMS by {UNCOMPILED}: with a C++ compiler (g++) they would be faster")
    lines += first_blocks_notes(report.get("cpu_blocks"))
    parallel = report["throughput"]
    if parallel is not None:
        lines.append(
            f"throughput mode, {parallel['side_by_side']} side by side: {parallel['per_second']:.1f} images a second, "
            f"{parallel['gain']:.2f} times one after the other"
        )
    return "\n".join(lines)
