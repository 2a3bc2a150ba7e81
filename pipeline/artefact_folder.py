"""Chooses the folder of a model's artefacts under OUT, so that no two models share one.

The name is that of the model and its weights, such as d0-digits, or that of the ONNX file. `source.txt` in the folder
says whose it is: a file's path as seen from OUT, so that both may be moved together. Another file of the same name, as
model.onnx and best.pth are so often, gets as many of its parent folders in front as make the name different.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file
from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import log
from effedge.deploy.common.outputs import mode_of, scratch_beside
from effedge.pipeline.export.torch_to_onnx import Batch
from effedge.pipeline.request import Checkpoint, OnnxFile, Request
from effedge.pipeline.weights.hub.repository import is_repository
from effedge.pipeline.weights.locate import BUNDLED, name_of_file
from effedge.pipeline.weights.published import KINDS

SOURCE = "source.txt"


@contextlib.contextmanager
def artefact_folder(request: Request) -> Iterator[Path]:
    """Yields the folder of a request's artefacts, which is made and marked as its source's.

    No other run writes there within the block: it waits. The folder is removed again if the block fails before anything
    is in it.

    Raises:
        UserError: the folder cannot be made, or is another source's and there is no other name.
    """
    owner, names = source_of(request), [request.name] if request.name else names_of(request.source)
    first = request.out / names[0]
    is_new = not mode_of(request.out)
    folder = next((request.out / name for name in names if claim(request.out / name, owner)), None)
    if folder is None and request.name is None:
        raise UserError(f"'{first}' is of '{owner_of(first)}': give '{owner}' a NAME (--name), or another OUT (--out)")
    if folder is None:
        folder = first
        log.warning(f"note: '{folder}' was of '{owner_of(folder)}', and what is in it is made anew of '{owner}'")
        with atomic_file(folder / SOURCE) as temporary:
            temporary.write_text(owner + "\n", encoding="utf-8")
    elif folder != first:
        log.info(f"folder: {folder}, because {first} is of '{owner_of(first)}' (NAME, --name, gives another)")
    try:
        with locked(folder):
            yield folder
    except BaseException:
        if [path.name for path in folder.iterdir()] == [SOURCE]:
            with contextlib.suppress(OSError):  # another process may have put something there
                (folder / SOURCE).unlink()
                folder.rmdir()
                if is_new:
                    request.out.rmdir()
        raise


def claim(folder: Path, owner: str) -> bool:
    """Makes a folder and marks it as of `owner`, unless it is; returns False if it is of another, even just now."""
    if owner_of(folder) not in (None, owner):
        return False
    mark = folder / SOURCE
    if owner_of(folder) == owner:
        return True
    with scratch_beside(mark) as scratch:
        temporary = scratch / SOURCE
        temporary.write_text(owner + "\n", encoding="utf-8")
        try:
            os.link(temporary, mark)  # as a rename, which fails if another run was first
        except OSError:
            if owner_of(folder) is None:  # a mark that was cut short, or a file system without links
                os.replace(temporary, mark)
    return owner_of(folder) == owner


def owner_of(folder: Path) -> str | None:
    """Returns the source that a folder says its artefacts are of; None for a folder that does not exist or say it."""
    try:
        return (folder / SOURCE).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def source_of(request: Request) -> str:
    """Returns what a folder is marked with: a file's path as seen from OUT, or the model with its published weights."""
    file = file_of(request.source)
    if file is not None:
        return Path(os.path.relpath(file, request.out)).as_posix()
    return artefact_name(request.source)


def file_of(source: Checkpoint | OnnxFile) -> Path | None:
    """Returns the file of a source; None for effedge's own, published and a hub's weights."""
    if isinstance(source, OnnxFile):
        return source.path
    is_word = source.weights in (*KINDS, *BUNDLED, "random") or is_repository(source.weights)
    return None if is_word else Path(source.weights)


def names_of(source: Checkpoint | OnnxFile) -> list[str]:
    """Returns the names that a source's folder may have, the first that is free to be taken.

    >>> names_of(OnnxFile(Path("/runs/b 2/model.onnx")))
    ['model', 'b_2_model', 'runs_b_2_model']
    """
    file = file_of(source)
    if file is None:
        return [artefact_name(source)]
    folders = [word(part) for part in Path(os.path.abspath(file)).parent.parts[1:]]
    prefixes = ["_".join([*folders[len(folders) - count :], ""]) for count in range(len(folders) + 1)]
    return [artefact_name(source, prefix.lstrip(".")) for prefix in prefixes]


def artefact_name(source: Checkpoint | OnnxFile, prefix: str = "") -> str:
    """Returns the first name of a source's folder, such as d0-digits, d0-mine-640, b0-digits-b1-4-8, net-b4.

    >>> from effedge.pipeline.models.tables import Size
    >>> artefact_name(Checkpoint("d0", "runs/mine.pth", size=Size(384, 640)))
    'd0-mine-384x640'
    """
    file = file_of(source)
    if isinstance(source, OnnxFile):
        parts = [prefix + word(source.path.stem), *([source.head] if source.head else [])]
        parts += [str(source.size)] if source.size else []
        return "-".join([*parts, *([batch_word(source.batch)] if source.batch else [])])
    if file is not None:
        weights = prefix + word(name_of_file(file))
    else:
        weights = word(source.weights) if is_repository(source.weights) else source.weights
    parts = [source.model, weights]
    if source.size is not None:
        parts.append(str(source.size))
    if source.batch != (1, 1, 1):
        parts.append(batch_word(source.batch))
    return "-".join(parts)


def word(name: str) -> str:
    """Replaces what suits no folder's name by underscores; and hyphens, which effedge's own names have."""
    return re.sub(r"[^\w.]+", "_", name)


def batch_word(batch: Batch) -> str:
    """Returns a batch as a part of a folder's name, such as b8 or b1-4-8."""
    return "b" + "-".join(map(str, batch if len(set(batch)) > 1 else batch[:1]))
