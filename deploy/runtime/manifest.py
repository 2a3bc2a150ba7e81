"""Reads and checks an engine folder's manifest.json, so that the engine that runs is the one that was built.

The engine's builder writes it (engines/manifest.py). The runtime relies on `format`; `spec` (empty for an ONNX of
another exporter); `backend`; `engine` (the file to load); `files` (the SHA-256 of every file); and for Runner on
`inputs` and `outputs`.
"""

from pathlib import Path
from typing import Optional, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.files import read_json, sha256
from effedge.deploy.common.paths import inside, shown
from effedge.deploy.common.strict_json import parse_json
from effedge.deploy.runtime.manifest_fields import wrong_field
from effedge.deploy.runtime.signature import Keys, check_signature, trusted_keys_of_user

NAME = "manifest.json"
FORMAT = 1


def read_manifest(folder: Union[str, Path], trusted_keys: Optional[Keys] = None) -> Manifest:
    """Reads the manifest of an engine folder, and checks it, the SHA-256 of every file that it lists, and its signature
    where trusted keys are given, here or in the environment (signature.py).

    Raises UserError as `parse_manifest` does, and if a file is missing or not the one that was built, or the signature
    is missing or wrong.
    """
    manifest = parse_manifest(folder)
    keys = trusted_keys_of_user() if trusted_keys is None else trusted_keys
    if keys is not None:
        signed = (Path(folder) / NAME).read_bytes()
        check_signature(Path(folder), signed, keys)
        manifest = parse_manifest(folder, signed)  # exactly that which is signed
    for name, digest in manifest["files"].items():
        file = inside(Path(folder), name, NAME)
        if not file.is_file():
            raise UserError(f"'{file}' is missing, though {NAME} lists it: copy the whole folder, or build it again")
        if read_digest(file) != digest:
            raise UserError(f"'{file}' is not the file that was built (its SHA-256 differs): build the engine again")
    return manifest


def parse_manifest(folder: Union[str, Path], text: Optional[bytes] = None) -> Manifest:
    """Reads the manifest of an engine folder without reading the files that it lists. `text`: the content of
    manifest.json, if it has been read.

    Raises UserError if the folder or its manifest is missing, or the manifest is damaged, of another format, or names
    files outside the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {problem}: expected an engine's folder, as made by `make engine`")
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"'{folder}' has no {NAME}: expected an engine's folder, as made by `make engine`")
    try:
        content = read_json(path, "build the engine again") if text is None else parse_json(text)
    except ValueError as error:
        raise UserError(f"'{path}' is damaged ({error}): build the engine again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is damaged (expected a JSON object): build the engine again")
    if content.get("format") != FORMAT:
        raise UserError(
            f"'{path}' is of format {shown(content.get('format'))}, this effedge reads {FORMAT}: build the engine "
            "again with this version"
        )
    field = wrong_field(content)
    if field is not None:
        raise UserError(f"'{path}' is damaged (no valid '{field}'): build the engine again")
    for name in content["files"]:
        inside(folder, name, f"'{path}'")
    manifest: Manifest = content  # type: ignore[assignment]  # its fields are as checked above
    loaded_file(folder, manifest, manifest["engine"])
    return manifest


def loaded_file(folder: Path, manifest: Manifest, name: object) -> Path:
    """Returns the path of a file that a backend loads. A manifest without `files` is that of a model in no engine's
    folder.

    Raises UserError if the file is outside the folder, or `files` lacks it, so that nothing vouches for its content.
    """
    path = inside(folder, name, f"'{folder / NAME}'")
    if "files" in manifest and name not in manifest["files"]:
        raise UserError(f"'{folder / NAME}' is damaged ('files' lacks {shown(name)}): build the engine again")
    return path


def read_digest(file: Path) -> str:
    """Computes a file's SHA-256. Raises UserError if the file cannot be read."""
    try:
        return sha256(file)
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
