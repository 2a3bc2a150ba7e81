"""Compiles effedge's C++ libraries (deploy/native) for the CPU at hand when they are first needed, and loads them.

Needed is a C++ compiler (CXX, c++, g++ or clang++). A compiled library is kept in the user's cache and loaded from
there the next time. Before it is kept, it is loaded once, and checked where its caller has a check. Without a compiler,
without a cache that can be written and that only the user may write, or if the check fails, there is no library, and
the caller does without.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import native_sources
from effedge.deploy.common.files import atomic_file, digest_of_json, sha256, user_cache
from effedge.deploy.timing.machine import cpu

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
COMPILED = "C++"  # in reports: the value where a compiled library does the work
TIMEOUT = 120.0  # seconds, after which the compiler is taken to hang

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
        What `load` returns, or None if there is no library.
    """
    try:
        path = library_path(source)
        with contextlib.suppress(OSError, AttributeError):  # it does not exist yet, or is damaged
            check_owner(path)
            return load(path)
        with atomic_file(path) as temporary:
            compile_library(source, temporary)
            library = load(temporary)
            if check is not None:
                check(library)
            temporary.chmod(0o755)
            with open(str(temporary), "rb") as file:
                os.fsync(file.fileno())  # half a library, after a crash, would end every process that loads it
        return load(path)
    except (OSError, UserError, ValueError, AttributeError, subprocess.SubprocessError):
        return None


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


def check_owner(path: Path) -> None:
    """Raises UserError if other users could have put their own code into the file."""
    status = path.stat()
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise UserError(f"'{path}' is another user's, or others may write it")


def compile_library(source: LibrarySource, path: Path) -> None:
    """Compiles the library to `path`. Raises UserError without a compiler, SubprocessError if the compiler fails."""
    command = [*find_compiler(), *FLAGS, *source.flags, "-o", str(path), str(source.folder / source.main)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=TIMEOUT)


def find_compiler() -> List[str]:
    """Returns the command of a C++ compiler. Raises UserError, with the reason, if there is none."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return [path]
    raise UserError(f"no C++ compiler ({', '.join(COMPILERS)}) is on PATH")
