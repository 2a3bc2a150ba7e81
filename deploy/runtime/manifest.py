"""An engine folder's manifest.json, read and checked: what is run is what was built.

engines/ writes it. What the runtime relies on: `format`; `spec` (the model's task, labels and input; empty for an ONNX
that somebody else made); `backend` (its name, version and settings); `engine` (the file to load); `files` (the SHA-256
of every file); and for Runner, `inputs` and `outputs` (name, dtype and shape of each).
"""

from pathlib import Path
from typing import Any, Dict, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_json, sha256

NAME = "manifest.json"
FORMAT = 1
FIELDS = {"spec": dict, "backend": dict, "engine": str, "files": dict}


def read_manifest(folder: Union[str, Path]) -> Dict[str, Any]:
    """The manifest of an engine folder, after checking it and the SHA-256 of every file that it lists.

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


def parse_manifest(folder: Union[str, Path]) -> Dict[str, Any]:
    """The manifest of an engine folder without a look at the files that it lists.

    Raises UserError if the folder or its manifest is missing, or the manifest is damaged or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {problem}: expected an engine's folder, as made by `make engine`")
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"'{folder}' has no {NAME}: expected an engine's folder, as made by `make engine`")
    manifest = read_json(path, "build the engine again")
    if not isinstance(manifest, dict):
        raise UserError(f"'{path}' is damaged (expected a JSON object): build the engine again")
    if manifest.get("format") != FORMAT:
        given = manifest.get("format")
        raise UserError(
            f"'{path}' is of format {given!r}, this effedge reads {FORMAT}: build the engine again with this version"
        )
    for field, kind in FIELDS.items():
        if not isinstance(manifest.get(field), kind):
            raise UserError(f"'{path}' is damaged (no valid '{field}'): build the engine again")
    if manifest["engine"] not in manifest["files"]:
        raise UserError(f"'{path}' is damaged ('files' lacks '{manifest['engine']}'): build the engine again")
    return manifest


def read_digest(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
