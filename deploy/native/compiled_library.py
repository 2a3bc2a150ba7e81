"""Compiles effedge's C++ libraries (deploy/native) for the CPU at hand when they are first needed, and loads them.

Needed is a C++ compiler (CXX, c++, g++ or clang++). A compiled library is kept in the user's cache and loaded from
there the next time; deploy/common/trusted.py sees to it that it is this user's and undamaged. Before it is kept, it is
loaded once, and checked where its caller has a check. Without a compiler, without a cache that can be written and that
only the user may write, or if the check fails, there is no library, and the caller does without. A compiler that has
failed is not tried again for a day.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import native_sources
from effedge.deploy.common.files import digest_of_json, sha256, user_cache
from effedge.deploy.common.messages import log
from effedge.deploy.common.outputs import scratch_beside
from effedge.deploy.common.trusted import TrustedFolder, checked_content, trusted_folder
from effedge.deploy.timing.machine import cpu

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
COMPILED = "C++"  # in reports: the value where a compiled library does the work
TIMEOUT = 60.0  # seconds, after which the compiler is taken to hang; the larger library takes three of a server's core
RETRY_AFTER = 24 * 3600.0  # seconds after a failure

Library = TypeVar("Library")


class LibrarySource(NamedTuple):
    """The source of a library.

    Attributes:
        name: of the library in the cache.
        folder: of the source files.
        main: the file in the folder that is compiled; it includes the others.
        flags: for the compiler, beside FLAGS.
        versions: of the packages that the library is checked against; another version compiles and checks it again.
    """

    name: str
    folder: Path
    main: str
    flags: Tuple[str, ...]
    versions: Mapping[str, str]


def load_compiled_library(
    source: LibrarySource, load: Callable[[Path], Library], check: Optional[Callable[[Library], None]] = None
) -> Optional[Library]:
    """Loads a library, which is compiled first if the cache does not have it.

    Args:
        load: from the compiled library's path to the object that is returned; may raise OSError or AttributeError for
            a damaged library.
        check: raises UserError if the library computes wrong results.

    Returns:
        What `load` returns, or None if there is no library, after a warning if the compiler failed.
    """
    path = failure = None
    try:
        path = library_path(source)
        with trusted_folder(path.parent) as folder:
            library = load_kept(folder, path.name, load)
            if library is not None:
                return library
            compiler = find_compiler()
            failure = path.with_suffix(".failed")
            reason = last_failure(folder, failure.name, compiler)
            if reason is None:
                try:
                    compile_and_keep(source, compiler, folder, path.name, load, check)
                except (subprocess.SubprocessError, UserError, AttributeError) as error:
                    reason = describe(error)
                    remember_failure(folder, failure.name, compiler, reason)
            if reason is None:
                return load_kept(folder, path.name, load)
    except (OSError, UserError, ValueError):
        return None
    log.warning(
        f"note: '{compiler[0]}' cannot compile {source.main} ({reason}): NumPy, Pillow or the runtime do its work, "
        f"slower; mend the compiler or name another in CXX, and delete '{failure}' to try before a day is over"
    )
    return None


def load_kept(folder: TrustedFolder, name: str, load: Callable[[Path], Library]) -> Optional[Library]:
    """Loads a library of the cache; None if it is not there, is damaged, or others may write it.

    What is loaded is the file that was checked: by its handle, which stays open, because the system knows a loaded
    library by the name of the handle.
    """
    try:
        handle = folder.open_file(name)
    except (OSError, UserError):
        return None
    with open(handle, "rb", closefd=False) as file:
        content = checked_content(file.read(), name)
    if content is None:
        os.close(handle)
        return None
    by_handle = Path(f"/proc/self/fd/{handle}")
    with contextlib.suppress(OSError, AttributeError):  # it was compiled by another version of the system's linker
        return load(by_handle if by_handle.exists() else folder.path / name)
    return None


def compile_and_keep(
    source: LibrarySource, compiler: List[str], folder: TrustedFolder, name: str, load: Callable[[Path], Library],
    check: Optional[Callable[[Library], None]],
) -> None:  # fmt: skip
    """Compiles a library, checks it, and keeps it in the cache. Raises as `compile_library`, `load` and `check`."""
    with scratch_beside(folder.path / name) as scratch:
        compiled = scratch / name
        compile_library(source, compiled, compiler)
        library = load(compiled)
        if check is not None:
            check(library)
        folder.keep(name, compiled.read_bytes(), name)


def library_path(source: LibrarySource) -> Path:
    """Returns the path in the cache of a source's library for this CPU, where it may not exist yet."""
    key = digest_of_json(
        {
            "sources": {path.name: sha256(path) for path in native_sources(source.folder)},
            "flags": [*FLAGS, *source.flags],
            "cpu": cpu(),
            "versions": dict(source.versions),
        }
    )
    return user_cache() / f"{source.name}-{key}.so"


def last_failure(folder: TrustedFolder, name: str, compiler: List[str]) -> Optional[str]:
    """Returns the reason why this compiler failed less than a day ago; None if it did not."""
    content = folder.read(name, name)
    if content is None:
        return None
    failure = json.loads(content.decode())
    is_recent = 0 <= time.time() - failure["time"] < RETRY_AFTER
    return failure["reason"] if is_recent and failure["compiler"] == identity(compiler) else None


def remember_failure(folder: TrustedFolder, name: str, compiler: List[str], reason: str) -> None:
    failure = {"time": time.time(), "compiler": identity(compiler), "reason": reason}
    with contextlib.suppress(OSError, UserError):  # a full disk: then it is tried at the next start
        folder.keep(name, json.dumps(failure).encode(), name)


def identity(compiler: List[str]) -> List[str]:
    """Returns a compiler's command and the time at which its file was changed; another compiler is tried at once."""
    path = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    return [*compiler, path, str(os.stat(path).st_mtime_ns) if os.path.exists(path) else ""]


def describe(error: Exception) -> str:
    """Returns the reason in one line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took more than {TIMEOUT:.0f} seconds"
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with exit status {error.returncode}"
    return " ".join(str(error).split())


def compile_library(source: LibrarySource, path: Path, compiler: Optional[List[str]] = None) -> None:
    """Compiles the library to `path`. Raises UserError without a compiler, SubprocessError if the compiler fails or
    takes longer than TIMEOUT."""
    main = str(source.folder / source.main)
    command = [*(compiler or find_compiler()), *FLAGS, *source.flags, "-o", str(path), main]
    nothing = subprocess.DEVNULL
    # In a session of its own, so that the processes that the compiler starts end with it.
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True) as process:
        try:
            status = process.wait(TIMEOUT)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def find_compiler() -> List[str]:
    """Returns the command of a C++ compiler. Raises UserError, with the reason, if there is none."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return [path]
    raise UserError(f"no C++ compiler ({', '.join(COMPILERS)}) is on PATH")
