"""Writes the table that `effedge engine` ends with: what an engine is and does, beside its FP32 twin if there is one.

It is made of what is there already and of what takes some seconds: a latency run of SECONDS, and the accuracy on a few
labelled images, if they are at hand. What is not known has a note with the command that finds it out. The table is kept
in the engine's folder, so that a second call, which builds nothing, measures nothing either.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import effedge
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.files import atomic_file, digest_of_json, sha256
from effedge.deploy.common.messages import silence
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.engines.manifest import MULTIPLYING
from effedge.pipeline.request import Request

SECONDS, WARM_UP = 1.5, 0.5  # of the latency run, and before it
LEAST_RUNS = 5
IMAGES = {"detection": 50, "classification": 200}
KEPT = ".table"  # hidden: not a part of the engine, whose files the manifest lists
LARGEST_ANNOTATIONS = 32 << 20  # bytes of a file that is read without being asked for
FIGURE = {"detection": ("AP", "AP 50:95"), "classification": ("top-1", "top-1")}
UNREADABLE = "unknown"
DASH = "–"


class Latency(NamedTuple):
    """A short run: median and 99th percentile in ms, and the number of runs."""

    median: float
    p99: float
    runs: int


def engine_table(engine: Path, request: Request) -> str:
    """Returns the table of an engine that was just built, and of the FP32 engine of the same ONNX beside it; the kept
    one, if it is of these engines, this data and this machine.

    Raises UserError if an engine's manifest is damaged.
    """
    from effedge.deploy.timing.machine import cores, cpu_name

    engines = [engine, *fp32_twin(engine, request)]
    manifests = [parse_manifest(folder) for folder in engines]
    files = [manifest["files"] for manifest in manifests]
    key = digest_of_json([files, str(request.accuracy_limit), cpu_name(), cores(), effedge.__version__, str(engine)])
    kept = engine / KEPT
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is no text
        its_key, _, text = kept.read_text(encoding="utf-8").partition("\n")
        if its_key == key:
            return text
    text = make_table(engines, manifests, request)
    with contextlib.suppress(UserError, OSError), atomic_file(kept) as temporary:  # a full disk has no table
        temporary.write_text(f"{key}\n{text}", encoding="utf-8")
    return text


def make_table(engines: Sequence[Path], manifests: Sequence[Manifest], request: Request) -> str:
    """Measures the engines and returns their table, the engine that was built first.

    A figure that cannot be had is a dash; a note below says why, and which command has it.
    """
    notes: list[str] = []
    latencies = timed(engines, notes)
    name, accuracies = accuracy(engines, manifests[0], request, latencies, notes)
    rows = {
        "": [manifest["precision"]["asked"].upper() for manifest in manifests],
        "multiply-adds": shares_of_work(engines[0].with_name("simplified.onnx"), manifests),
        "size, MB": [f"{size_mb(*pair):.1f}" for pair in zip(engines, manifests, strict=True)],
        "latency, ms": [DASH if row is None else f"{row.median:.1f} (p99 {row.p99:.1f})" for row in latencies],
    }  # fmt: skip
    if name is not None:
        rows[name] = [DASH if value is None else f"{100 * value:.1f}" for value in accuracies]
    return "\n".join([*aligned(rows), *notes])


def size_mb(folder: Path, manifest: Manifest) -> float:
    """Computes the size of an engine's files, in millions of bytes."""
    return sum((folder / file).stat().st_size for file in manifest["files"]) / 1e6


def aligned(rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Formats rows by title as lines of text."""
    title = max(map(len, rows))
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    return ["  ".join([f"  {name:<{title}}", *map(str.ljust, cells, widths)]).rstrip() for name, cells in rows.items()]


def fp32_twin(engine: Path, request: Request) -> list[Path]:
    """Returns the FP32 engine beside an engine, if there is one of the same ONNX."""
    twin, simplified = engine.with_name(f"fp32-{request.target.name}"), engine.with_name("simplified.onnx")
    if twin == engine or not (twin / "manifest.json").is_file() or not simplified.is_file():
        return []
    try:
        made_of = parse_manifest(twin).get("sources", {}).get("onnx")
    except UserError:  # of an earlier effedge, or damaged
        return []
    return [twin] if made_of == sha256(simplified) else []


def shares_of_work(simplified: Path, manifests: Sequence[Manifest]) -> list[str]:
    """Writes each engine's shares of `work_by_precision`, without those below half a per cent."""
    texts = []
    for shares in work_by_precision(simplified, manifests):
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        texts.append(", ".join(f"{kind} {100 * share:.0f}%" for kind, share in ordered if share >= 0.005) or DASH)
    return texts


def work_by_precision(simplified: Path, manifests: Sequence[Manifest]) -> list[dict[str, float]]:
    """Computes for each engine the share of multiply-accumulates by the precision that their layers were built in; an
    empty dict where it is not known.

    Layers are known by their names in the simplified ONNX, which all precisions share (OpenVINO names the last one by
    its output); those that the engine does not list count as unknown.
    """
    from effedge.calibration.graph import onnx_file
    from effedge.calibration.graph.macs import macs

    try:
        model = onnx_file.load(simplified)
    except UserError:  # no file that a pass can read
        return [{} for _ in manifests]
    work, outputs = macs(model), {node.name: node.outputs[0].name for node in model.graph}
    total = sum(work.values())
    if not total:
        return [{} for _ in manifests]
    by_engine = []
    for manifest in manifests:
        # A transposition of a layer's weights may have its name too.
        layers = sorted(manifest["precision"]["layers"], key=lambda layer: layer["type"] in MULTIPLYING)
        built = {layer["name"]: layer["precision"] for layer in layers}
        shares: dict[str, float] = {}
        for name, count in work.items():
            kind = built.get(name) or built.get(str(outputs.get(name)), UNREADABLE)
            shares[kind] = shares.get(kind, 0) + count / total
        by_engine.append(shares)
    return by_engine


def timed(engines: Sequence[Path], notes: list[str]) -> list[Latency | None]:
    """Times the engines on this machine, run by run in turn, and notes how, or why not (None)."""
    from effedge.deploy.timing.machine import cores, cpu_name
    from effedge.deploy.timing.workload import make_workload

    runs: dict[int, Callable[[], float]] = {}
    timed_work = "a run on arrays"
    for index, folder in enumerate(engines):
        try:
            work = make_workload(folder, [])
            runs[index] = lambda work=work: sum(work.run().values())  # type: ignore[misc]
            runs[index]()
            if work.batch is not None:
                timed_work = "from an image in memory to its result"
        except UserError as reason:
            runs.pop(index, None)
            notes.append(f"not timed: {reason}")
    times: dict[int, list[float]] = {index: [] for index in runs}
    for seconds, counts in ((WARM_UP, False), (SECONDS, True)):
        started, turns = time.perf_counter(), 0
        while runs and (time.perf_counter() - started < seconds or (counts and turns < LEAST_RUNS)):
            turns += 1
            for index, run in runs.items():
                milliseconds = run()
                if counts:
                    times[index].append(milliseconds)
    if runs:
        count = len(next(iter(times.values())))
        where = f"{cpu_name()}, {cores()} cores"
        notes.append(f"latency: {timed_work}, {count} runs on {where}; longer: effedge latency {engines[0]}")
    return [latency_of(times[index]) if index in times else None for index in range(len(engines))]


def latency_of(milliseconds: Sequence[float]) -> Latency:
    """Summarizes the latencies of a run."""
    from effedge.deploy.timing.percentiles import summarize

    figures = summarize(milliseconds)
    return Latency(figures["p50"], figures["p99"], len(milliseconds))


def accuracy(
    engines: Sequence[Path], manifest: Manifest, request: Request, latencies: Sequence[Latency | None], notes: list[str]
) -> tuple[str | None, list[float | None]]:
    """Measures the engines that run here on the first IMAGES labelled images, if they are at hand.

    Returns the figure's name and the figures, 0 to 1; None where there is none. Notes what it was measured on, or the
    command that measures it.
    """
    from effedge.pipeline.evaluation.evaluate import evaluate_engine

    task = manifest["spec"].get("task", "")
    if task not in FIGURE:
        return None, []
    key, name = FIGURE[task]
    figures: list[float | None] = []
    try:
        data, images = labelled_images(manifest, request)
        if data is None or not any(latencies):
            notes.append(f"accuracy: effedge evaluate {engines[0]} --data {images or 'DATA'}")
            return None, []
        for folder, latency in zip(engines, latencies, strict=True):
            with silence():
                result = evaluate_engine(folder, str(data), limit=IMAGES[task]) if latency else None
            figures.append(result["figures"].get(key) if result else None)
    except UserError as reason:  # the engine is whole, whatever its labelled images are
        notes.append(f"no accuracy: {reason}")
        return None, []
    notes.append(f"{name}: on {IMAGES[task]} images only; on all: effedge evaluate {engines[0]} --data {images}")
    return name, figures


def labelled_images(manifest: Manifest, request: Request) -> tuple[Path | None, str | None]:
    """Returns the labelled images that take no long time to read, or None, and what `effedge evaluate` calls them.

    These are VALIDATION of the request, or the drawn digits for weights that were trained on them.
    """
    spec = manifest["spec"]
    validation = request.accuracy_limit.validation if request.accuracy_limit is not None else None
    if validation is not None and validation != "digits":
        path = Path(validation)
        is_large = path.is_file() and path.stat().st_size > LARGEST_ANNOTATIONS
        return (None if is_large else path), validation
    if spec.get("weights") != "digits" and validation is None:
        return None, None
    from effedge.pipeline.datasets.digits_cache import digits_data

    return digits_data(spec, IMAGES[spec["task"]]), "digits"
