"""How long an engine takes, step by step: effedge latency ENGINE [PICTURES]

Each run takes a batch through all steps: decode (from the disk), prepare (letterbox or crop), engine, select (NMS, or
the best classes). The end-to-end time is their sum. Without PICTURES (a picture or a folder) a made-up picture is used;
then the selection has little to do. The board's power mode, clocks, temperatures and throttling are read before and
after (deploy/timing/board.py). Runs begin once the machine has warmed up. Throughput mode does the steps of
several pictures side by side.

--raw prints one latency in ms a line, of the engine alone, to be compared with other tools' by scripts; with
--end-to-end, from a decoded picture to what was found in it.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence

from effedge.deploy.common.cli import Parser
from effedge.deploy.common.files import check_place, whole_file
from effedge.deploy.native.compiled_library import COMPILED
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.deploy.timing.board_notes import board_lines

if TYPE_CHECKING:
    from effedge.deploy.timing.workload import Times, Workload

SECONDS = 10.0
LEAST_RUNS, MOST_RUNS = 20, 1000
ON_CPU = ("openvino", "onnxruntime")
UNCOMPILED = "Pillow and NumPy"
PACKAGES = ("numpy", "pillow", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "pycuda")


def parse_args() -> argparse.Namespace:
    parser = Parser(prog="effedge latency", description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="an engine's folder, such as build/d0-digits/int8-cpu")
    parser.add_argument("pictures", metavar="PICTURES", nargs="?", help="a picture, or a folder of pictures")
    count = f"runs to time (default: {SECONDS:g} seconds of them)"
    parser.add_argument("--iterations", metavar="N", type=int, help=count)
    parser.add_argument("--batch", metavar="N", type=int, help="pictures a run (default: what the engine is built for)")
    parser.add_argument("--no-throughput", action="store_true", help="leave throughput mode out")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write figures, machine, versions and every latency")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="draw a histogram (needs matplotlib)")
    parser.add_argument("--raw", action="store_true", help="one latency in ms a line, of the engine alone")
    parser.add_argument(
        "--end-to-end", action="store_true", help="with --raw: from a decoded picture to what was found"
    )
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

    pictures = [] if args.pictures is None else find_images(args.pictures)
    for path in (args.json, args.plot):
        if path is not None:
            check_place(path)
    if args.raw:
        print_raw(args, pictures)
        return
    report = measure(args.engine, pictures, args.iterations, args.batch, not args.no_throughput)
    print(table(report))
    if args.json is not None:
        with whole_file(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"json: {args.json}")
    if args.plot is not None:
        from effedge.deploy.timing.latency_plot import plot_histogram

        plot_histogram(report, args.plot)
        print(f"plot: {args.plot}")


def print_raw(args: argparse.Namespace, pictures: Sequence[Path]) -> None:
    """Latencies, a line each, as soon as they are known."""
    from effedge.deploy.timing.percentiles import warm_up
    from effedge.deploy.timing.workload import make_workload

    work = make_workload(args.engine, pictures, args.batch, decode=False)
    once = (lambda: sum(work.run().values())) if args.end_to_end else work.time_engine
    warm_up(once)
    for _ in counted(args.iterations):
        print(f"{once():.3f}", flush=True)


def measure(
    folder: str,
    pictures: Sequence[Path],
    iterations: Optional[int] = None,
    batch: Optional[int] = None,
    with_throughput: bool = True,
) -> Dict[str, Any]:
    """The report that --json writes. Raises UserError as `effedge.deploy.timing.workload.make_workload`."""
    from effedge.deploy.native.cpu_blocks.blocks import front_of
    from effedge.deploy.timing.board import board
    from effedge.deploy.timing.machine import machine, versions
    from effedge.deploy.timing.percentiles import per_second, summarize, warm_up
    from effedge.deploy.timing.throughput import throughput
    from effedge.deploy.timing.workload import END_TO_END, make_workload

    manifest = parse_manifest(folder)
    started = time.perf_counter()
    work = make_workload(folder, pictures, batch)
    load_ms = 1000 * (time.perf_counter() - started)
    _, front = front_of(Path(folder) / manifest["engine"], manifest, 1)
    warming = warm_up(lambda: sum(work.run().values()))
    before = board()
    times = collect(work, iterations)
    after = board()  # at once, while the clocks are still up
    if len(work.steps) > 1:
        times[END_TO_END] = [sum(row) for row in zip(*times.values())]
    steps = {name: {**summarize(row), "per_second": per_second(row, work.batch or 1)} for name, row in times.items()}
    many = None
    if work.batch is not None and with_throughput:
        latency = steps[END_TO_END]["p50"]
        wanted = max(LEAST_RUNS, min(MOST_RUNS, int(1000 * SECONDS / 2 / latency))) * work.batch
        many = throughput(folder, manifest["spec"]["task"], pictures, wanted, latency, work.batch)
    return {
        "format": 1,
        "engine": identity(folder, manifest),
        "machine": machine(),
        "board": {"before": before, "after": after},
        "versions": versions(PACKAGES),
        "letterbox_and_nms": by_whom(manifest),
        "front": front,
        "pictures": len(pictures),
        "batch": work.batch,
        "load_ms": round(load_ms, 1),
        "warm_up_runs": warming,
        "runs": len(next(iter(times.values()))),
        "steps": steps,
        "throughput": many,
        "samples_ms": {name: [round(value, 4) for value in row] for name, row in times.items()},
    }


def by_whom(manifest: Dict[str, Any]) -> Optional[str]:
    """What does a detector's letterbox and NMS on the CPU; None for other engines."""
    from effedge.deploy.native.letterbox_nms.library import native

    if manifest["spec"].get("task") != "detection" or manifest["backend"]["name"] not in ON_CPU:
        return None
    return UNCOMPILED if native() is None else COMPILED


def front_notes(who: Optional[str]) -> List[str]:
    """A line if the first blocks of an engine that has a front are not computed by it here (deploy/native/cpu_blocks/blocks.py)."""
    return [] if who in (None, COMPILED) else [f"the first blocks are not computed in C++, as {who}: that is slower"]


def identity(folder: str, manifest: Dict[str, Any]) -> Dict[str, Any]:
    """Which engine it is: its folder, model, precision, target, backend, and the hashes of its files."""
    return {
        "folder": str(folder),
        "model": manifest["spec"].get("model"),
        "precision": manifest.get("precision", {}).get("asked"),
        **{name: manifest.get(name) for name in ("target", "backend", "files")},
    }


def counted(iterations: Optional[int]) -> Iterator[int]:
    """As many numbers as asked for; else for ten seconds, but at least 20 and at most 1,000."""
    if iterations is not None:
        yield from range(iterations)
        return
    end = time.perf_counter() + SECONDS
    for index in range(MOST_RUNS):
        if index >= LEAST_RUNS and time.perf_counter() > end:
            return
        yield index


def collect(work: "Workload", iterations: Optional[int]) -> Dict[str, List[float]]:
    """Run again and again: milliseconds by step. A line on a terminal tells how far it is."""
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


def table(report: Dict[str, Any]) -> str:
    """The report for a reader."""
    engine, machine = report["engine"], report["machine"]
    batch = "" if report["batch"] is None else f", batch {report['batch']}"
    backend = f"{engine['backend']['name']} {engine['backend'].get('version', '')}".strip()
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
    lines += front_notes(report.get("front"))
    many = report["throughput"]
    if many is not None:
        lines.append(
            f"throughput mode, {many['side_by_side']} side by side: {many['per_second']:.1f} pictures a second, "
            f"{many['gain']:.2f} times one after the other"
        )
    return "\n".join(lines)
