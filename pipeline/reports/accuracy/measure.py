"""One case of `make accuracy`: its engines and its peers' models built, and each evaluated on the same pictures."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from effedge.calibration.ranges.samples import digest, list_images
from effedge.calibration.ranges.source import METADATA
from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import preparation
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.engines.stage import record_path, run_stage
from effedge.engines.targets import PRECISIONS, TARGETS
from effedge.pipeline.chain import CALIBRATION_IMAGES, Request, build_chain, calibration_data
from effedge.pipeline.evaluation.evaluate import evaluate_engine
from effedge.pipeline.reports.accuracy.cases import Case, Found
from effedge.pipeline.reports.accuracy.other_runtimes import evaluate_file
from effedge.pipeline.reports.accuracy.own_process import in_own_process

PEERS = {"nncf": "model.xml", "onnxruntime": "model.onnx"}  # the file that each writes
SCRIPT = Path(__file__).with_name("peers.py")
SYMMETRIC = "int8_symmetric"
CALIBRATED = {"int8": "int8-zero-points", SYMMETRIC: "int8"}
LIKE_GPUS = dataclasses.replace(TARGETS["cpu"], name="cpu-symmetric", zero_points=False)
FIGURE = {"detection": "AP", "classification": "top-1"}


def measure(
    case: Case, found: Found, *, out: Path, peers: Path | None, limit: int | None, quiet: bool
) -> list[dict[str, Any]]:
    """Build all of a case, where that is not done already, and evaluate it.

    Args:
        out: the folder of all artefacts.
        peers: the Python of the peers' environment; None leaves them out.
        limit: evaluate on the first so many pictures only.

    Returns:
        For each of the evaluation's data sets a row of JSON values: case, model, weights, data, figure ("AP" or
        "top-1"), pictures, calibration {images, seconds, peak_mib, int8_macs, ...}, peers {name: {seconds, peak_mib,
        versions}}, symmetric_calibration, results {what: as effedge.pipeline.evaluation.evaluate.evaluate_engine}. What: each precision,
        int8_symmetric (as TensorRT takes it, run on the CPU), both with _onnxruntime (our INT8 ONNX on ONNX Runtime),
        and each peer.
    """
    wanted = partial(Request, target=TARGETS["cpu"], out=out, calibration=found.calibration, quiet=quiet)
    engines = {
        precision: in_own_process(build_chain, case.model, found.weights, wanted(precision)) for precision in PRECISIONS
    }
    engines[SYMMETRIC] = in_own_process(build_chain, case.model, found.weights, wanted("int8", target=LIKE_GPUS))
    folder = engines["int8"].parent
    manifest = parse_manifest(engines["int8"])
    files = {f"{what}_onnxruntime": folder / f"{name}.onnx" for what, name in CALIBRATED.items()}
    reports = {}
    if peers is not None:
        data = calibration_data(case.model, found.weights, found.calibration, quiet, needed=True)
        assert data is not None
        pictures = list_images(data, count=CALIBRATION_IMAGES)
        inputs = in_own_process(calibration_inputs, pictures, manifest["spec"], folder)
        for peer, name in PEERS.items():
            files[peer] = make_peer(peer, peers, folder / "simplified.onnx", inputs) / name
            reports[peer] = peer_report(files[peer].parent)

    made = {what: in_own_process(calibration_report, folder / f"{name}.onnx") for what, name in CALIBRATED.items()}
    rows = []
    for name, data_path in found.evaluation.items():
        results = {}
        for what, path in {**engines, **files}.items():
            say(f"{case.name}: evaluating {what} on {name}")
            if what in engines:
                result = in_own_process(evaluate_engine, path, data_path, limit=limit, quiet=quiet)
            else:
                result = in_own_process(evaluate_file, path, manifest, data_path, limit=limit, quiet=quiet)
            results[what] = result
            figure = FIGURE[result["task"]]
            say(f"{case.name}: {what} on {name}: {figure} {result['figures'][figure]} in {result['seconds']:.0f} s")
        rows.append({
            "case": case.name, "model": case.model, "weights": found.weights, "data": name, "figure": figure,
            "pictures": result["pictures"], "calibration": made["int8"], "symmetric_calibration": made[SYMMETRIC],
            "peers": reports, "results": results,
        })  # fmt: skip
    return rows


def say(line: str) -> None:
    """A line of progress: on stderr, because stdout is the table's."""
    print(f"accuracy: {line}", file=sys.stderr, flush=True)


def calibration_report(int8: Path) -> dict[str, Any]:
    """What the calibrated ONNX says of its making, and the seconds and peak_mib of the stage's record."""
    import onnx

    metadata = {entry.key: entry.value for entry in onnx.load(int8).metadata_props}
    record = json.loads(record_path(int8).read_text())
    return {**json.loads(metadata[METADATA]), "seconds": record["seconds"], "peak_mib": record["peak_mib"]}


def calibration_inputs(pictures: list[Path], spec: dict[str, Any], folder: Path) -> Path:
    """Write what our calibration feeds to the model, uint8 [N,H,W,3], for the peers; returns the .npy."""
    prepare = preparation(spec["input"])
    inputs = folder / "peers" / "inputs.npy"

    def make(temporary: Path) -> None:
        np.save(temporary, np.stack([prepare(open_image(picture)).pixels for picture in pictures]))

    options = {"pictures": digest(pictures), "input": spec["input"]}
    run_stage(
        "peers' inputs", inputs, inputs={}, options=options, tools=["numpy", "pillow"], code=[__name__], make=make
    )
    return inputs


def make_peer(peer: str, python: Path, onnx: Path, inputs: Path) -> Path:
    """Have a peer quantize `onnx`; returns the folder of its model.

    Raises UserError if the peer's Python lacks its packages, or it fails.
    """
    folder = inputs.parent / peer

    def ask(out: Path, *flags: str) -> str:
        return ask_peer(python, [peer, str(onnx), str(inputs), str(out), *flags])

    def make(temporary: Path) -> None:
        ask(temporary)

    run_stage(
        f"peer {peer}",
        folder,
        inputs={"onnx": onnx, "calibration": inputs, "script": SCRIPT},
        options={"versions": json.loads(ask(folder, "--versions"))},
        tools=[],
        code=[],
        make=make,
        folder=True,
    )
    return folder


def peer_report(folder: Path) -> dict[str, Any]:
    """What a peer's model took to make, seconds and peak_mib, and the versions of the peer's packages."""
    record = json.loads(record_path(folder).read_text())
    return {**json.loads((folder / "report.json").read_text()), **record["key"]["options"]}


def ask_peer(python: Path, arguments: list[str]) -> str:
    """Run peers.py in the peers' environment; returns its stdout. UserError as `make_peer`."""
    try:
        done = subprocess.run([str(python), str(SCRIPT), *arguments], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"the peers' Python '{python}' does not run ({error.strerror}): check --peers") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise UserError(f"{arguments[0]} failed in '{python}' ({lines[-1]}): check its packages, or leave --peers out")
    return done.stdout
