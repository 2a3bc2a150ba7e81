"""Packs a bundle: one archive from which a device builds an engine by itself, and tests it.

It holds the prepared ONNX, deploy/ and engines/ (which need Python 3.8, NumPy, Pillow and the backend, neither torch
nor onnx), an image, the ONNX's outputs and its detections or classes for it on ONNX Runtime, and install.sh. SHA256SUMS
lists every file, sbom.cdx.json what it was made by and needs. The same inputs make the same archive, to the last byte.

Where the target's builder may have no INT8 kernel for some layers (`risky_layers`), plan B comes too: the ONNX with
these layers in 16 bit. For a proof (effedge prove) there are more images, each with its expected result.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import effedge
from effedge.calibration.graph import onnx_file
from effedge.calibration.placement.without_int8 import without_int8
from effedge.calibration.ranges.samples import spread
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import PACKAGE, ROOT
from effedge.deploy.common.contracts import Spec
from effedge.deploy.common.files import sha256
from effedge.deploy.common.paths import shown
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import preparation
from effedge.deploy.image.records import Record
from effedge.deploy.runtime import onnxruntime_backend
from effedge.deploy.runtime.selection import Selection
from effedge.engines import install
from effedge.engines.build_request import BuildRequest
from effedge.engines.comparison.inputs import image_batch
from effedge.engines.comparison.reference import Reference
from effedge.engines.onnx_header import onnx_files, read_header
from effedge.engines.preflight import refuse, risky_layers
from effedge.engines.proof.prove import EXPECTED as PROOF_EXPECTED
from effedge.engines.proof.prove import IMAGES as PROOF_IMAGES
from effedge.engines.proof.prove import SUFFIX as PROOF_SUFFIX
from effedge.engines.selftest import SURE, TOLERANCES
from effedge.engines.stage import run_stage, tool_versions
from effedge.engines.targets import TARGETS, Target
from effedge.pipeline.evaluation.backend import BackendClassifier, BackendDetector, BackendEngine
from effedge.pipeline.shipping import sbom
from effedge.pipeline.shipping.bundled_images import as_png, draw_test_image, images_of, scaled_down

ROOMS = ("deploy", "engines")
INSTALL = ROOT / "engines" / "install.sh"
SUMS = "SHA256SUMS"
TOOLS = ["numpy", "onnxruntime", "pillow"]  # of the bundle itself
FORMAT = 1


def bundle_stage(
    request: BuildRequest, *, image: Path | None = None, calibration: Path | None = None, proof_images: int = 0
) -> Path:
    """Packs what a build on the device needs into an archive beside the prepared ONNX, unless that is done; returns the
    archive's path.

    Args:
        request: the build.
        image: for the self-test; by default a drawn image for digits and random weights, the first of `calibration` if
            that is a folder of images, or a photograph of a cat.
        proof_images: the number of images for a proof, of the same kinds.

    Raises:
        UserError: a file that the target cannot take, that does not describe its input, or that is no image.
    """
    onnx, header, precision, target = request.onnx, request.header, request.precision, request.target
    build_options, ranges = request.build_options, request.ranges
    if not target.on_cpu:
        refuse(header, onnx, target, build_options.dla)
    if not header.spec:
        raise UserError(
            f"'{onnx}' does not say how it wants images or what its outputs mean, so a bundle could not test itself: "
            "copy it to the device and run effedge build there"
        )
    name = "-".join([onnx.parent.name, precision, target.name, *(["dla"] if build_options.dla else [])])
    name += PROOF_SUFFIX if proof_images else ""
    archive = onnx.with_name(f"{name}.tar.gz")
    sources = images_of(header.spec, calibration)
    source = image or (sources[0] if sources else None)
    proof = [None] * proof_images if sources is None else spread(sources, proof_images)
    build_arguments = build_options.as_arguments()
    risky = risky_layers(header, target) if precision == "int8" else []
    run_stage(
        "bundle",
        archive,
        inputs={
            **onnx_files(onnx),
            **({"ranges": ranges} if ranges else {}),
            "install": INSTALL,
            **inputs_of([source, *proof]),
        },
        options={
            "precision": precision,
            "target": target.name,
            "build_options": build_arguments,
            "reference": reference(),
            "risky_layers": risky,
            "proof_images": len(proof),
            "prepared_by": sbom.recorded_tools(onnx),
            "device_files": {name: sha256(path) for path, name in device_files().items()},
        },
        tools=TOOLS,
        code=[__name__],
        make=partial(
            write_bundle,
            onnx=onnx,
            spec=header.spec,
            content=bundle_content(name, header.spec, precision, target, build_arguments),
            images=[source, *proof],
            risky_layers=risky,
            ranges=ranges,
        ),
    )
    return archive


def inputs_of(images: Sequence[Path | None]) -> dict[str, Path]:
    """Names the images that are files, as inputs of a stage."""
    return {f"image {number}": path for number, path in enumerate(images) if path is not None}


def device_files() -> dict[Path, str]:
    """Maps the files of effedge that a device needs to their names in the bundle.

    They are two of the rooms, and the package's own modules, which import a room only when a name of it is used.
    """
    package = Path(effedge.__file__).parent
    files = {path: f"{PACKAGE}/{path.name}" for path in sorted(package.glob("*.py"))}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path != INSTALL:
                files[path] = f"{PACKAGE}/{path.relative_to(ROOT).as_posix()}"
    return files


def reference() -> str:
    """Names the runtime that computes the expected result."""
    return f"ONNX Runtime {onnxruntime.__version__} on {platform.machine()}"


def bundle_content(name: str, spec: Spec, precision: str, target: Target, build_arguments: list[str]) -> dict[str, Any]:
    """Makes the content of bundle.json."""
    return {
        "format": FORMAT,
        "name": name,
        "model": spec["model"],
        "weights": spec["weights"],
        "labels": spec["labels"],
        "precision": precision,
        "target": target.name,
        "build_options": build_arguments,
        "threshold": round(SURE - TOLERANCES[precision][1], 3) if spec["task"] == "detection" else None,
        "reference": reference(),
    }


def write_bundle(
    archive: Path,
    *,
    onnx: Path,
    spec: Spec,
    content: dict[str, Any],
    images: Sequence[Path | None],
    risky_layers: Sequence[str],
    ranges: Path | None,
) -> None:
    """Writes the archive; its only folder has the bundle's name.

    Args:
        content: of bundle.json.
        images: for the self-test, then for a proof; None for drawn ones.
        risky_layers: that plan B has in 16 bit; without any there is none.
        ranges: as of BuildRequest.
    """
    files: dict[str, bytes] = {}
    for path, name in device_files().items():
        files[name] = path.read_bytes()
    models, model_data = {install.MODEL: onnx}, dict[str, bytes]()
    with tempfile.TemporaryDirectory() as scratch:
        if risky_layers:
            models[install.FALLBACK] = Path(scratch) / install.FALLBACK.name
            onnx_file.save(without_int8(onnx_file.load(onnx), risky_layers), models[install.FALLBACK])
        for place, model in models.items():
            model_data.update(model_files(model, place))
    files.update(model_data)
    tools = sorted({*sbom.recorded_tools(onnx), *(" ".join(tool) for tool in tool_versions(TOOLS).items())})
    files[sbom.NAME] = sbom.bill_of_materials(content, TARGETS[content["target"]], tools, model_data)
    if ranges is not None:
        files[install.RANGES.as_posix()] = ranges.read_bytes()
    files["install.sh"] = INSTALL.read_bytes()
    files[install.BUNDLE.as_posix()] = as_json(content)
    pixels = [draw_test_image(spec, number) if path is None else open_image(path) for number, path in enumerate(images)]
    small = [pixels[0], *map(scaled_down, pixels[1:])]
    records = expected_results(onnx, spec, small, content["threshold"])
    files[install.IMAGE.as_posix()] = as_png(small[0])
    files[install.EXPECTED.as_posix()] = as_json(records[0])
    files[install.OUTPUTS.as_posix()] = as_npz(expected_outputs(onnx, spec, small[0]))
    for number, image in enumerate(small[1:]):
        files[f"{PROOF_IMAGES}/{number:03}.png"] = as_png(image)
    if len(small) > 1:
        files[PROOF_EXPECTED.as_posix()] = as_json(records[1:])
    sums = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())]
    files[SUMS] = "".join(sums).encode()
    archive.write_bytes(pack(content["name"], files))


def model_files(onnx: Path, place: Path) -> dict[str, bytes]:
    """Reads an ONNX and the files of its weights, by their names in the bundle; `place` is the ONNX's.

    The ONNX says the names of its weights, so they stay as they are. Raises UserError for one that the bundle has
    another file for, or that SHA256SUMS cannot hold.
    """
    files = {}
    reserved = {name.as_posix() for name in (install.MODEL, install.FALLBACK, install.RANGES)}
    for role, path in onnx_files(onnx).items():
        name = place if role == "onnx" else place.parent / role
        lowered = {part.as_posix().lower() for part in (name, *name.parents)}
        if role != "onnx" and (lowered & reserved or not role.isprintable() or "\\" in role):
            raise UserError(
                f"'{onnx}' keeps its weights in {shown(role)}, a name that a bundle cannot have: save the ONNX anew "
                "with its weights in a file of another name, such as weights.bin"
            )
        files[name.as_posix()] = path.read_bytes()
    return files


def expected_results(onnx: Path, spec: Spec, images: Sequence[np.ndarray], threshold: float | None) -> list[Record]:
    """Computes the ONNX's results for images on ONNX Runtime, with the device's own pre- and post-processing."""
    backend = onnxruntime_backend.load(onnx, {"backend": {"fp8": read_header(onnx).is_fp8}})
    engine = BackendEngine(backend, str(onnx), spec)
    if threshold is None:
        return [classes.to_dict() for classes in BackendClassifier(engine).stream(images)]
    detector = BackendDetector(engine)
    detector.selection = Selection(threshold)
    return [detections.to_dict() for detections in detector.stream(images)]


def expected_outputs(onnx: Path, spec: Spec, image: np.ndarray) -> dict[str, np.ndarray]:
    """Computes every output of the ONNX for an image on ONNX Runtime, without its optimizations."""
    return Reference(onnx, onnx).run(image_batch(preparation(spec["input"])(image).pixels, spec))


def as_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Encodes arrays by name."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def as_json(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def pack(name: str, files: dict[str, bytes]) -> bytes:
    """Packs files into a .tar.gz with one folder, sorted, without dates and owners."""
    uncompressed = io.BytesIO()
    with tarfile.open(fileobj=uncompressed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(data), 0o755 if path.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(uncompressed.getvalue(), mtime=0)
