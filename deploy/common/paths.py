"""Resolves the names of files that other files say: a manifest's, an ONNX's, a data set's. And checks the paths of
outputs that a command line says.

The option of an output has `output_file`, `output_folder` or `output_path` as its type, and --json has `json_file`, so
that a path that nothing can be written to is an error before the work, and of every command the same.
"""

import argparse
import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import Optional

from effedge.deploy.common.cli import STDOUT, UserError, parse_path
from effedge.deploy.common.outputs import explain_os_error, mode_of, replaced_file
from effedge.deploy.common.scratch import SUFFIX

MAX_BYTES, MAX_PATH_BYTES = 255, 4000  # of the name of a file or folder, and of all of `name`; Linux's are 255 and 4095
TRIAL = "trial"  # in the name of a folder that is removed at once (scratch.py)
DASH = "-"  # standard output
SHOWN = 80  # characters of a value in a message


def inside(folder: Path, name: object, said_by: str) -> Path:
    """Returns the path of the file `name` in `folder`, or in a folder below it, where it may not exist yet.

    Args:
        folder: the folder that may not be left; it may itself be a link.
        name: the file's path relative to `folder`, as it stands in a file that anybody may have written.
        said_by: that file, for the message ("manifest.json").

    Raises:
        UserError: the name is no text, is empty, absolute, has "..", cannot be a file's name, or a link on the way
            leads out of the folder.
    """
    problem = why_not(folder, name)
    if problem is not None:
        raise UserError(f"{said_by} names the file {shown(name)}, which {problem}: expected a file inside '{folder}'")
    return folder / str(name)


def shown(value: object) -> str:
    """Returns a value of a file as it is shown in a message: on one line, and cut where it is long."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**SHOWN else "a number of many digits"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def why_not(folder: Path, name: object) -> Optional[str]:
    """Returns the reason why a name is not that of a file inside `folder`, or None."""
    if not isinstance(name, str):
        return "is no text"
    try:
        encoded = os.fsencode(name)
    except UnicodeError:
        return "has characters that a file's name cannot have"
    path = Path(name)
    too_long = len(encoded) > MAX_PATH_BYTES or any(len(os.fsencode(part)) > MAX_BYTES for part in path.parts)
    if too_long or not path.parts or b"\0" in encoded:
        return "cannot be a file's name"
    if path.anchor or ".." in path.parts:
        return "is not inside the folder"
    root, target = os.path.realpath(str(folder)), os.path.realpath(str(folder / path))
    return None if target.startswith(os.path.join(root, "")) else "is a link that leads out of the folder"


def no_dash(text: str) -> Path:
    """Parses an argument that is a path. Raises UserError for "-", which of all outputs only --json can be."""
    if text == DASH:
        raise UserError("'-' was given: only --json can go to standard output; give a path, './-' for one of this name")
    return parse_path(text)


def output_file(text: str) -> Path:
    """Parses an argument that is the path of a file to write; raises as `output_path`, and for what is no file."""
    path = output_path(text)
    replaced_file(path)
    return path


def json_file(text: str) -> Path:
    """Parses the FILE of --json, which may be standard output ("-"); raises as `output_file`, and for a closed one."""
    if text not in (DASH, str(STDOUT)):
        return output_file(text)
    if sys.stdout is None:
        raise UserError(f"--json {text} is standard output, which is closed: give a file")
    return STDOUT


def output_folder(text: str) -> Path:
    """Parses an argument that is the path of a folder to write; raises as `output_path`, and for a file."""
    path = output_path(text)
    if mode_of(path) and not path.is_dir():
        raise UserError(f"cannot write the folder '{text}': a file is there; choose another place")
    return path


def add_build_folder(parser: argparse.ArgumentParser, text: str = "folder of all artefacts") -> None:
    """Adds the option --out, the folder of what a command builds."""
    parser.add_argument("--out", type=output_folder, default=Path("build"), help=f"{text} (%(default)s)")


def output_path(text: str) -> Path:
    """Parses an argument that is the path of an output, a file or a folder.

    Where folders of it are missing, it is tried whether the last one that exists takes a new one. If none is
    missing, nothing is tried: where all outputs are up to date, the folder may be read-only.

    Raises:
        ArgumentTypeError: it is empty.
        UserError: a name is too long, or what is to be a folder of it is a file, or takes no new folder; or it is "-".
    """
    path = no_dash(text)
    with explain_os_error(path, any_number=True):
        if any(len(os.fsencode(part)) > MAX_BYTES for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        last = next((folder for folder in path.parents if os.path.lexists(str(folder))), path)
        if not last.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(last))
        if last != path.parent:
            try:
                os.rmdir(tempfile.mkdtemp(prefix=f".{TRIAL}.", suffix=SUFFIX, dir=str(last)))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(last)) from error
    return path
