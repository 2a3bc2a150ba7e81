"""Measures a case of `make accuracy`: builds its engines and its peers' models, and evaluates them all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effedge.calibration.ranges.samples import list_images
from effedge.calibration.ranges.usable_images import usable_images
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY, Spec
from effedge.deploy.common.files import read_json, sha256_of_files
from effedge.deploy.common.messages import log
from effedge.deploy.common.strict_json import parse_json
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import preparation
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.engines.build_request import NoSuchPrecisionError
from effedge.engines.stage import record_path, run_stage
from effedge.engines.targets import PRECISIONS, TARGETS
from effedge.pipeline.chain import CALIBRATION_IMAGES, calibration_images, run_chain
from effedge.pipeline.evaluation.evaluate import Evaluation, evaluate_engine, log_evaluated
from effedge.pipeline.reports.accuracy.cases import LocatedCase
from effedge.pipeline.reports.accuracy.other_runtimes import evaluate_file
from effedge.pipeline.reports.accuracy.own_process import in_own_process
from effedge.pipeline.request import OnnxFile, Request

# peer -> the file that it writes
PEERS = {"nncf": "model.xml", "onnxruntime": "model.onnx", "modelopt": "model.onnx", "modelopt_max": "model.onnx"}
SCRIPT = Path(__file__).with_name("peers.py")
SYMMETRIC = "int8_symmetric"
CALIBRATED = {"int8": "int8-zero-points", SYMMETRIC: "int8"}
LIKE_GPUS = dataclasses.replace(TARGETS["cpu"], name="cpu-symmetric", zero_points=False)
REMEDY = "remove it"
FIGURE = {"detection": "AP", "classification": "top-1"}


def measure(case: LocatedCase, *, out: Path, peers: Mapping[str, Path], limit: int | None) -> list[dict[str, Any]]:
    """Builds all engines of a case, where that is not done already, and evaluates them.

    Args:
        out: the folder of all artefacts.
        peers: of each peer, the Python that has it (`find_peers`).
        limit: number of images to evaluate on; None takes all.

    Returns:
        For every data set of the evaluation a row of JSON values: case, model, weights, data, figure ("AP" or "top-1"),
        images (their number), calibration {images, seconds, peak_mib, int8_macs, ...}, peers {name: {seconds,
        peak_mib, versions}, or {failed} with the reason}, symmetric_calibration, results {variant: as
        `effedge.pipeline.evaluation.evaluate.evaluate_engine`}. The variants are the precisions; int8_symmetric (as
        TensorRT takes it, run on the CPU); both INT8 variants with _onnxruntime (the INT8 ONNX on ONNX Runtime); and
        the peers.
    """
    request = Request(case.source, "int8", TARGETS["cpu"], out, calibration=case.calibration)
    requests = {precision: dataclasses.replace(request, precision=precision) for precision in PRECISIONS}
    requests[SYMMETRIC] = dataclasses.replace(request, target=LIKE_GPUS)
    engines = {}
    for variant, variant_request in requests.items():
        try:
            engines[variant] = in_own_process(run_chain, variant_request)
        except NoSuchPrecisionError as missing:
            left_out(variant, case, missing)
    folder = engines["int8"].parent
    manifest = parse_manifest(engines["int8"])
    files = {f"{variant}_onnxruntime": folder / f"{name}.onnx" for variant, name in CALIBRATED.items()}
    reports: dict[str, dict[str, Any]] = {}
    if peers:
        inputs = in_own_process(calibration_inputs, calibration_files(case), manifest["spec"], folder)
        for peer, python in peers.items():
            try:
                model = make_peer(peer, python, folder / "simplified.onnx", inputs) / PEERS[peer]
            except UserError as failure:
                reports[peer] = left_out(peer, case, failure)
            else:
                files[peer], reports[peer] = model, peer_report(model.parent)

    calibrations = {
        variant: in_own_process(calibration_report, folder / f"{name}.onnx") for variant, name in CALIBRATED.items()
    }
    rows = []
    for name, data_path in case.evaluation.items():
        results: dict[str, Evaluation] = {}
        for variant, path in {**engines, **files}.items():
            say(f"{case.name}: evaluating {variant} on {name}")
            try:
                if variant in engines:
                    result = in_own_process(evaluate_engine, path, data_path, limit=limit)
                else:
                    result = in_own_process(evaluate_file, path, manifest, data_path, limit=limit)
            except UserError as failure:
                if variant not in peers:
                    raise
                reports[variant] = left_out(variant, case, failure)
                continue
            results[variant] = result
            log_evaluated(result)
            figure = FIGURE[result["task"]]
            say(f"{case.name}: {variant} on {name}: {figure} {result['figures'][figure]} in {result['seconds']:.0f} s")
        rows.append({
            "case": case.name, "model": case.model, "weights": case.weights, "data": name, "figure": figure,
            "images": result["images"], "calibration": calibrations["int8"],
            "symmetric_calibration": calibrations[SYMMETRIC], "peers": reports, "results": results,
        })  # fmt: skip
    return rows


def left_out(variant: str, case: LocatedCase, failure: UserError) -> dict[str, Any]:
    """Returns the report of a variant that failed, and notes it: that is a result of the table, and not its end."""
    log.warning(f"note: {variant} of {case.name} is left out: {failure}")
    return {"failed": str(failure)}


def calibration_files(case: LocatedCase) -> list[Path]:
    """Lists the images that effedge calibrates with, for the peers."""
    data = case.calibration
    if data is None:
        assert not isinstance(case.source, OnnxFile)  # the chain has refused it
        data = calibration_images(case.source, needed=True)
        assert data is not None
    return usable_images(list_images(data, count=CALIBRATION_IMAGES), data)


def say(line: str) -> None:
    """Prints a line of progress to stderr, because stdout is for the table."""
    print(f"accuracy: {line}", file=sys.stderr, flush=True)


def calibration_report(int8: Path) -> dict[str, Any]:
    """Reads the calibration's report from its ONNX, and the seconds and peak_mib from the stage's record."""
    import onnx

    metadata = {entry.key: entry.value for entry in onnx.load(int8).metadata_props}
    record = read_json(record_path(int8), REMEDY)
    return {**parse_json(metadata[CALIBRATION_KEY]), "seconds": record["seconds"], "peak_mib": record["peak_mib"]}


def calibration_inputs(images: list[Path], spec: Spec, folder: Path) -> Path:
    """Writes the inputs of effedge's calibration, uint8 [N,H,W,3], for the peers; returns the .npy."""
    prepare = preparation(spec["input"])
    inputs = folder / "peers" / "inputs.npy"

    def make(temporary: Path) -> None:
        np.save(temporary, np.stack([prepare(open_image(image)).pixels for image in images]))

    options = {"images": sha256_of_files(images), "input": spec["input"]}
    run_stage(
        "peers' inputs", inputs, inputs={}, options=options, tools=["numpy", "pillow"], code=[__name__], make=make
    )
    return inputs


def find_peers(pythons: Sequence[Path]) -> dict[str, Path]:
    """Finds the Python that has each peer's packages, the first of several; notes the peers that none has.

    Raises:
        UserError: no such Python, or one that has no peer.
    """
    found: dict[str, Path] = {}
    for python in pythons:
        failures: list[UserError] = []
        for peer in PEERS:
            try:
                run_peer(python, [peer, "-", "-", "-", "--versions"])
                found.setdefault(peer, python)
            except UserError as failure:
                failures.append(failure)
        if len(failures) == len(PEERS):
            raise failures[0]
    missing = [peer for peer in PEERS if peer not in found]
    if pythons and missing:
        log.warning(f"note: {', '.join(missing)} left out: none of --peers has them")
    return found


def make_peer(peer: str, python: Path, onnx: Path, inputs: Path) -> Path:
    """Quantizes `onnx` with a peer; returns the folder of its model.

    Raises UserError if the peer's Python lacks its packages, or it fails.
    """
    folder = inputs.parent / peer

    def run_script(out: Path, *flags: str) -> str:
        return run_peer(python, [peer, str(onnx), str(inputs), str(out), *flags])

    def make(temporary: Path) -> None:
        run_script(temporary)

    run_stage(
        f"peer {peer}",
        folder,
        inputs={"onnx": onnx, "calibration": inputs, "script": SCRIPT},
        options={"versions": parse_json(run_script(folder, "--versions"))},
        tools=[],
        code=[],
        make=make,
        folder=True,
    )
    return folder


def peer_report(folder: Path) -> dict[str, Any]:
    """Reads the seconds and peak_mib of a peer's quantization, and the versions of its packages."""
    record = read_json(record_path(folder), REMEDY)
    return {**read_json(folder / "report.json", REMEDY), **record["key"]["options"]}


def run_peer(python: Path, arguments: list[str]) -> str:
    """Runs peers.py in the peers' environment; returns its stdout. UserError as `make_peer`."""
    try:
        done = subprocess.run([str(python), str(SCRIPT), *arguments], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"the peers' Python '{python}' does not run ({error.strerror}): check --peers") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise UserError(f"{arguments[0]} failed in '{python}' ({lines[-1]}): check its packages, or leave --peers out")
    return done.stdout
