"""A bundle: one archive from which a device builds its engine by itself, with what it has, and proves it.

It holds the prepared ONNX, deploy/ and engines/ (Python 3.8, NumPy, Pillow and the backend: no torch, no onnx), a
picture, what the ONNX finds in it on ONNX Runtime, and install.sh. SHA256SUMS names every file. The same inputs make
the same archive, to the last byte.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

import effedge
from effedge.calibration.ranges.samples import list_images
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import PACKAGE, ROOT
from effedge.deploy.common.files import sha256
from effedge.deploy.image.files import open_image
from effedge.deploy.image.records import as_record
from effedge.deploy.runtime import onnxruntime_backend
from effedge.engines import install
from effedge.engines.build_options import DEFAULT, Choices
from effedge.engines.onnx_header import onnx_files, read_header
from effedge.engines.preflight import refuse
from effedge.engines.selftest import SURE, TOLERANCES
from effedge.engines.stage import run_stage
from effedge.engines.targets import Target
from effedge.pipeline.datasets import digits
from effedge.pipeline.evaluation.backend import BackendClassifier, BackendDetector, BackendEngine

ROOMS = ("deploy", "engines")
INSTALL = ROOT / "engines" / "install.sh"
SUMS = "SHA256SUMS"
DIGITS_INDEX, DIGITS_SHAPE = 1, (480, 640)  # of the validation split: the network has not seen it
PHOTOGRAPH = "chelsea.png"  # a cat, of scikit-image's photographs
FORMAT = 1


def bundle_stage(
    onnx: Path,
    *,
    precision: str,
    target: Target,
    choices: Choices = DEFAULT,
    picture: Path | None = None,
    calibration: Path | None = None,
) -> Path:
    """Pack the prepared `onnx` beside it, unless that is done; returns the archive's path.

    Args:
        choices: for the build on the device.
        picture: for the self-test; by default a drawn one for digits and random weights, the first of `calibration` if
            that is a folder of pictures, or a photograph of a cat.

    Raises:
        UserError: a file that the target cannot take, that does not describe its input, or a picture that is none.
    """
    header = read_header(onnx)
    if not target.on_cpu:
        refuse(header, onnx, target, choices.dla)
    if not header.spec:
        raise UserError(
            f"'{onnx}' does not say how it wants pictures or what its outputs mean, so a bundle could not test itself: "
            "copy it to the device and run effedge build there"
        )
    name = f"{onnx.parent.name}-{precision}-{target.name}"
    archive = onnx.with_name(f"{name}.tar.gz")
    source = picture or chosen_picture(header.spec, calibration)
    build_options = choices.as_options()
    run_stage(
        "bundle",
        archive,
        inputs={**onnx_files(onnx), "install": INSTALL, **({} if source is None else {"picture": source})},
        options={
            "precision": precision,
            "target": target.name,
            "build_options": build_options,
            "reference": reference(),
            "device_files": {name: sha256(path) for path, name in device_files().items()},
        },
        tools=["numpy", "onnxruntime", "pillow"],
        code=[__name__],
        make=partial(
            write_bundle,
            name=name,
            onnx=onnx,
            spec=header.spec,
            precision=precision,
            target=target,
            build_options=build_options,
            picture=source,
        ),
    )
    return archive


def device_files() -> dict[Path, str]:
    """The files of effedge that a device needs, and what each is called in the bundle: two of the rooms, and the
    package's own modules, which import a room only when a name of it is asked for."""
    package = Path(effedge.__file__).parent
    files = {path: f"{PACKAGE}/{path.name}" for path in sorted(package.glob("*.py"))}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path != INSTALL:
                files[path] = f"{PACKAGE}/{path.relative_to(ROOT).as_posix()}"
    return files


def chosen_picture(spec: dict[str, Any], calibration: Path | None) -> Path | None:
    """What the network knows; None: a drawn picture."""
    if spec["weights"] in ("digits", "random"):
        return None
    if calibration is not None and calibration.is_dir():
        return list_images(calibration)[0]
    import skimage.data

    return Path(skimage.data.__file__).parent / PHOTOGRAPH


def reference() -> str:
    return f"ONNX Runtime {onnxruntime.__version__} on {platform.machine()}"


def write_bundle(
    archive: Path,
    *,
    name: str,
    onnx: Path,
    spec: dict[str, Any],
    precision: str,
    target: Target,
    build_options: list[str],
    picture: Path | None,
) -> None:
    """Write the archive; its one folder is `name`."""
    pixels = drawn_picture(spec) if picture is None else open_image(picture)
    detects = spec["task"] == "detection"
    threshold = round(SURE - TOLERANCES[precision][1], 3) if detects else None
    content = {
        "format": FORMAT,
        "name": name,
        "model": spec["model"],
        "weights": spec["weights"],
        "labels": spec["labels"],
        "precision": precision,
        "target": target.name,
        "build_options": build_options,
        "threshold": threshold,
        "reference": reference(),
    }
    files: dict[str, bytes] = {}
    for path, packed_as in device_files().items():
        files[packed_as] = path.read_bytes()
    for role, path in onnx_files(onnx).items():
        files[install.MODEL.as_posix() if role == "onnx" else f"{install.MODEL.parent}/{role}"] = path.read_bytes()
    files["install.sh"] = INSTALL.read_bytes()
    files[install.BUNDLE.as_posix()] = as_json(content)
    files[install.PICTURE.as_posix()] = as_png(pixels)
    files[install.EXPECTED.as_posix()] = as_json(expected(onnx, spec, pixels, threshold))
    sums = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())]
    files[SUMS] = "".join(sums).encode()
    archive.write_bytes(packed(name, files))


def drawn_picture(spec: dict[str, Any]) -> np.ndarray:
    """A picture of digits, uint8 [h,w,3]."""
    if spec["task"] == "detection":
        return digits.draw_picture("val", DIGITS_INDEX, *DIGITS_SHAPE).image
    return digits.draw_crop("val", DIGITS_INDEX, spec["input"]["size"][0])[0]


def expected(onnx: Path, spec: dict[str, Any], pixels: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """What the ONNX finds in the picture, by ONNX Runtime and the device's own code before and behind it."""
    backend = onnxruntime_backend.load(onnx, {"backend": {}})
    engine = BackendEngine(backend, str(onnx), spec)
    if threshold is None:
        [classes] = BackendClassifier(engine)([pixels])
        return as_record(classes)
    detector = BackendDetector(engine)
    detector.choose_with(threshold)
    [detections] = detector([pixels])
    return as_record(detections)


def as_png(pixels: np.ndarray) -> bytes:
    """Without loss: JPEG decoders differ by a grey level here and there."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def packed(name: str, files: dict[str, bytes]) -> bytes:
    """A .tar.gz of the files in one folder, sorted, without dates and owners."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(data), 0o755 if path.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)
