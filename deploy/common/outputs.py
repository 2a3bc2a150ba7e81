"""Writes files and folders atomically, and replaces only what may be replaced.

Everything that effedge writes goes to a temporary name first and is then renamed. A rename within a folder is atomic on
POSIX file systems, so a reader, or a later run after a kill, finds the complete file or none. Before the rename the
content is on the disk (fsync(2)), so that the same holds after a loss of power.

Where an output's path leads decides what is done:

1. a regular file, or nothing: the file is replaced. A link is followed, and stays.
2. a character device or a fifo (/dev/null, /dev/stdout, a shell's >(...)): the content is written into it.
3. a folder, for an output that is a folder: it is replaced if it is empty or effedge's own. Its own are those in which
   an engine's manifest.json or MARK lists all names, and those without a manifest.json beside which a stage's record
   stands (engines/stage.py).
4. anything else is refused.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from effedge.deploy.common.cli import UserError, stdout_error
from effedge.deploy.common.scratch import EARLIER, make_folders, remove_empty, scratch_folder

MANIFEST, MANIFEST_FIELDS = "manifest.json", ("format", "spec", "backend", "files")  # of an engine
LOGS = ("build.log", "first-build.log")  # of an engine's folder; its manifest does not list what nothing reads
RECORD_FIELDS = ("key", "sha256", "peak_mib")  # of a stage, in NAME.json beside its artefact NAME
MARK = ".effedge.json"
MOST_LINKS = 40  # that Linux follows in a path
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
# Errors of a disk or a path that cannot be written. Any other OSError, while something is computed, has another cause,
# and is not turned into a UserError.
REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.EIO, errno.EFBIG, errno.ELOOP, errno.ENAMETOOLONG, errno.EBUSY, errno.ENXIO, errno.ENOTEMPTY, errno.EBADF,
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT)
# What comes in place of an OSError with a number: from C++ (OpenVINO's std::ofstream, PyTorch) and shutil.copytree.
STREAM_ERRORS = (
    "iostream error", "basic_ios::clear", "No space left on device", "Input/output error", "file write failed",
    "failed writing", "inline_container", "Can't open xml file", "Can't open bin file",
)  # fmt: skip


@contextlib.contextmanager
def explain_os_error(path: Union[str, Path], any_number: bool = False) -> Iterator[None]:
    """Turns errors of the disk (no permission, no space, a file where a folder must be) into a UserError with the
    path; also those that a library reports in words of its own.

    Args:
        any_number: turn every OSError into one: within the block nothing is done but to make room for `path`, so that
            what makes it fail, such as ENOENT below /proc, is said about the path.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = disk_reason(error, any_number)
        if reason is None or (isinstance(error, OSError) and stdout_error() is not None):
            raise
        named = getattr(error, "filename", None)
        if isinstance(named, str) and absolute(named) in absolute(path).parents:  # not that of a temporary file
            reason += f" ('{named}')"
        is_full = not isinstance(error, OSError) or error.errno in (None, *FULL)
        remedy = "make room there or choose another place" if is_full else "choose another place"
        raise UserError(f"cannot write '{path}': {reason}; {remedy}") from error


def absolute(path: Union[str, Path]) -> Path:
    return Path(os.path.abspath(str(path)))


def disk_reason(error: Exception, any_number: bool = False) -> Optional[str]:
    """Returns what an error says about the disk or the path; None for an error of another cause. `any_number`: as of
    `explain_os_error`."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror if any_number or error.errno in REFUSALS else None
    said = next((text for text in STREAM_ERRORS if text in str(error)), None)
    return None if said is None else f"the disk is full or fails ('{said}')"


def check_output_path(path: Path) -> None:
    """Raises UserError if `path` is a folder, or lies in a folder that does not exist. To be called before the work."""
    if stat.S_ISDIR(mode_of(path)) or not path.parent.is_dir():
        raise UserError(f"cannot write '{path}': expected a file in a folder that exists")
    replaced_file(path)


def replaced_file(path: Path) -> Optional[Path]:
    """Returns the file that an output replaces, behind links; None for a device or a fifo, which is written into.

    Raises UserError for all that is neither, such as a folder, a block device or a socket.
    """
    if own_descriptor(path) is not None:
        return None
    mode = mode_of(path)
    if stat.S_ISREG(mode) or not mode:
        return Path(os.path.realpath(str(path))) if path.is_symlink() else path
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return None
    kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a stream"
    raise UserError(f"cannot write '{path}': it is {kind}, expected a file; choose another place")


def mode_of(path: Path) -> int:
    """Returns the mode (stat(2)) of what a path leads to; 0 for nothing. Raises UserError for what cannot be a path,
    such as one with a name that is too long, and for one that may not be looked at."""
    with explain_os_error(path):
        try:
            return os.stat(str(path)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def own_descriptor(path: Path) -> Optional[int]:
    """Returns N for a path that leads to /proc/self/fd/N, as /dev/stdout does; None for any other.

    That is an open file of this process. The file behind it must not be replaced: others write to it too.
    """
    place = str(path)
    for _ in range(MOST_LINKS):
        folder, name = os.path.split(place)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", os.path.realpath(folder)) and name.isdigit():
            return int(name)
        if not os.path.islink(place):
            return None
        place = os.path.join(folder, os.readlink(place))
    return None


def write_into(path: Path, content: Path) -> None:
    """Writes a file's content into a device, a fifo, or an open file of this process. Its reader may take a part only,
    as `head` does."""
    number = own_descriptor(path)
    if number is not None and sys.stdout is not None:
        sys.stdout.flush()  # what was printed before comes before
    descriptor = os.open(str(path), os.O_WRONLY) if number is None else os.dup(number)
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as stream, content.open("rb") as file:
        shutil.copyfileobj(file, stream)


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, whose parents are created. If the block fails, all of them are
    removed. Raises UserError where they cannot be made, or somebody removed them meanwhile."""
    created: List[Path] = []
    with explain_os_error(path):
        try:
            with contextlib.ExitStack() as stack:
                with explain_os_error(path, any_number=True):
                    created += make_folders(path.parent)
                    scratch = stack.enter_context(scratch_folder(path.parent, path.name))
                try:
                    yield scratch
                except FileNotFoundError as error:
                    if scratch.is_dir():
                        raise
                    raise UserError(
                        f"cannot write '{path}': its folder was removed meanwhile; run the same command again"
                    ) from error
        except BaseException:
            remove_empty(created)
            raise


@contextlib.contextmanager
def atomic_file(path: Union[str, Path]) -> Iterator[Path]:
    """Yields a temporary path; the file there becomes `path` if the block ends well, else it is removed.

    The folder of `path` is created if need be. Raises UserError if the disk cannot be written, or for what is no file.
    """
    path = Path(path)
    target = replaced_file(path)
    if target is None:
        with explain_os_error(path), tempfile.TemporaryDirectory(prefix="effedge.") as folder:
            yield Path(folder) / path.name
            write_into(path, Path(folder) / path.name)
        return
    with scratch_beside(target) as scratch:
        # The name keeps its suffix: onnx, safetensors and OpenVINO choose the format by it.
        temporary = scratch / path.name
        yield temporary
        to_disk(temporary)
        os.replace(str(temporary), str(target))


@contextlib.contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder inside `folder`. If the block ends well, each of its files becomes an output of that
    name in `folder`, as by `atomic_file`."""
    if mode_of(folder) and not folder.is_dir():
        raise UserError(f"cannot write '{folder}': it is a file, expected a folder; choose another place")
    with scratch_beside(folder / "files") as scratch:
        yield scratch
        for file in sorted(scratch.iterdir()):
            target = folder / file.name
            if replaced_file(target) == target:
                to_disk(file)
                os.replace(str(file), str(target))
            else:
                with atomic_file(target) as temporary:
                    shutil.copyfile(str(file), str(temporary))


@contextlib.contextmanager
def atomic_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Like `atomic_file`, for a folder: an empty or own folder at `path` is replaced, with all of its files.

    Raises UserError for any other folder, and for what is no folder; before the block, and again behind it.
    """
    path = Path(path)
    target = Path(os.path.realpath(str(path)))
    check_replaceable(target, path)
    with scratch_beside(target) as scratch:
        temporary = scratch / "new"
        temporary.mkdir()
        yield temporary
        if foreign_names(temporary) or not is_engine(temporary):
            (temporary / MARK).write_text(json.dumps({"files": names_in(temporary)}) + "\n", encoding="utf-8")
        for file in temporary.rglob("*"):
            if file.is_file():
                to_disk(file)
        check_replaceable(target, path)
        replace_folder(temporary, target, scratch)


def check_replaceable(folder: Path, shown: Path) -> None:
    """Raises UserError, with the path as it is `shown`, unless a folder is missing, empty, or effedge's own."""
    if not mode_of(folder) and not os.path.islink(str(folder)):
        return
    if not folder.is_dir():
        raise UserError(f"cannot write the folder '{shown}': a file is there; choose another place")
    if not is_engine(folder) and is_recorded(folder):
        return
    with explain_os_error(shown):
        foreign = foreign_names(folder)
    if foreign:
        raise UserError(
            f"the folder '{shown}' would be replaced, and effedge did not write what is in it ('{foreign[0]}'): "
            "choose another place, or move it away"
        )


def foreign_names(folder: Path) -> List[str]:
    """Lists the files in a folder, sorted, that neither an engine's manifest nor MARK lists there; of a folder with
    neither, all that is in it."""
    listed: List[object] = []
    mark, manifest = read_dict(folder / MARK).get("files"), read_dict(folder / MANIFEST).get("files")
    engine = is_engine(folder)
    if isinstance(mark, list):
        listed += mark
    if engine:
        listed += [MANIFEST, *LOGS, *(manifest if isinstance(manifest, (list, dict)) else ())]
    present = names_in(folder) if engine or isinstance(mark, list) else os.listdir(str(folder))
    return sorted(name for name in present if name not in listed)


def is_engine(folder: Path) -> bool:
    """Tells if a folder has an engine's manifest."""
    return all(field in read_dict(folder / MANIFEST) for field in MANIFEST_FIELDS)


def is_recorded(folder: Path) -> bool:
    """Tells if a stage's record stands beside a folder: the folder is that stage's artefact, changed or not."""
    record = read_dict(Path(f"{folder}.json"))
    return all(field in record for field in RECORD_FIELDS)


def names_in(folder: Path) -> List[str]:
    """Lists the files in a folder by their relative names, sorted; without those whose name begins with a dot, and
    Python's cache: they may come and go."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(
        name.as_posix() for name in found if not any(part[0] == "." or part == "__pycache__" for part in name.parts)
    )


def read_dict(path: Path) -> Dict[str, Any]:
    """Reads a JSON object; an empty one if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def replace_folder(temporary: Path, target: Path, scratch: Path) -> None:
    """Renames a folder to `target`; what is there goes to `scratch`. In one step where the system can do that; else in
    two, of which the first is undone if the second fails, or by the next run after a kill."""
    if not target.exists():
        os.replace(str(temporary), str(target))
    elif not exchange(temporary, target):
        earlier = scratch / EARLIER / target.name
        earlier.parent.mkdir()
        os.replace(str(target), str(earlier))
        try:
            os.replace(str(temporary), str(target))
        except OSError:
            os.replace(str(earlier), str(target))
            raise


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two names by renameat2(2); returns False where the system or the file system cannot. Raises OSError."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or glibc before 2.28
        return False
    if renameat2(AT_FDCWD, os.fsencode(str(first)), AT_FDCWD, os.fsencode(str(second)), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def link_or_copy(source: Union[str, Path], target: Union[str, Path]) -> None:
    """Makes a hard link of a file; a copy where the file system has no links, and on another disk."""
    try:
        os.link(str(source), str(target))
    except OSError:
        shutil.copy2(str(source), str(target))


def to_disk(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    descriptor = os.open(str(path), os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # it may not be writable
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Union[str, Path], content: object) -> None:
    """Writes JSON values to a file, whole or not at all. Raises UserError if the disk refuses."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_json_so_far(path: Optional[Path], content: object, whole: bool) -> None:
    """Writes JSON values that grow: into a file each time that some are added, and not once more at the end (`whole`);
    into a device, a fifo or standard output, which take no second result in place of the first, only at the end."""
    if path is not None and (replaced_file(path) is None) == whole:
        write_json(path, content)
