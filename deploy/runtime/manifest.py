"""Reads and checks an engine folder's manifest.json, so that the engine that runs is the one that was built.

The engine's builder writes it (engines/manifest.py). The runtime relies on `format`; `spec` (empty for an ONNX of
another exporter); `backend`; `engine` (the file to load); `files` (the SHA-256 of every file); and for Runner on
`inputs` and `outputs`.
"""

from pathlib import Path
from typing import Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.files import read_json, sha256

NAME = "manifest.json"
FORMAT = 1
FIELDS = {"spec": dict, "backend": dict, "engine": str, "files": dict}


def read_manifest(folder: Union[str, Path]) -> Manifest:
    """Reads the manifest of an engine folder, and checks it and the SHA-256 of every file that it lists.

    Raises UserError as `parse_manifest` does, and if a file is missing or not the one that was built.
    """
    manifest = parse_manifest(folder)
    for name, digest in manifest["files"].items():
        file = Path(folder) / name
        if not file.is_file():
            raise UserError(f"'{file}' is missing, though {NAME} lists it: copy the whole folder, or build it again")
        if read_digest(file) != digest:
            raise UserError(f"'{file}' is not the file that was built (its SHA-256 differs): build the engine again")
    return manifest


def parse_manifest(folder: Union[str, Path]) -> Manifest:
    """Reads the manifest of an engine folder without reading the files that it lists.

    Raises UserError if the folder or its manifest is missing, or the manifest is damaged or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {problem}: expected an engine's folder, as made by `make engine`")
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"'{folder}' has no {NAME}: expected an engine's folder, as made by `make engine`")
    content = read_json(path, "build the engine again")
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is damaged (expected a JSON object): build the engine again")
    if content.get("format") != FORMAT:
        raise UserError(
            f"'{path}' is of format {content.get('format')!r}, this effedge reads {FORMAT}: build the engine again "
            "with this version"
        )
    for field, kind in FIELDS.items():
        if not isinstance(content.get(field), kind):
            raise UserError(f"'{path}' is damaged (no valid '{field}'): build the engine again")
    if content["engine"] not in content["files"]:
        raise UserError(f"'{path}' is damaged ('files' lacks '{content['engine']}'): build the engine again")
    manifest: Manifest = content  # type: ignore[assignment]  # its fields are as checked above
    return manifest


def read_digest(file: Path) -> str:
    """Computes a file's SHA-256. Raises UserError if the file cannot be read."""
    try:
        return sha256(file)
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
