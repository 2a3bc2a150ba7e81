"""C++ of ours (deploy/native), compiled for the CPU at hand when it is first needed.

It takes a C++ compiler (CXX, c++, g++ or clang++). What one compiled is kept in the user's cache and taken from there
again; before it is kept, it is loaded, and checked where its caller has a check. Without a compiler, without a cache
that can be written and that is the user's alone, or where the check finds anything, there is no library, and the caller
does without.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256, user_cache, whole_file
from effedge.deploy.runtime.compiled_cache import digest_of
from effedge.deploy.timing.machine import cpu

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
COMPILED = "C++"  # in reports: who does something
SECONDS = 120.0  # after which a compiler is taken for stuck

Library = TypeVar("Library")


class Source(NamedTuple):
    """A library's source: its name in the cache, its folder, the file to compile and those that it includes, relative
    to the folder, flags beside FLAGS, and the versions of what it is checked against."""

    name: str
    folder: Path
    main: str
    included: Tuple[str, ...]
    flags: Tuple[str, ...]
    versions: Mapping[str, str]


def host_library(
    source: Source, load: Callable[[Path], Library], check: Optional[Callable[[Library], None]] = None
) -> Optional[Library]:
    """What `load` makes of the compiled library's path, or None where there is none. `load` may raise OSError or
    AttributeError for a damaged one, `check` UserError."""
    try:
        path = library_path(source)
        with contextlib.suppress(OSError, AttributeError):  # there is none yet, or a damaged one
            check_owner(path)
            return load(path)
        with whole_file(path) as temporary:
            compile_to(source, temporary)
            library = load(temporary)
            if check is not None:
                check(library)
            temporary.chmod(0o755)
            with open(str(temporary), "rb") as file:
                os.fsync(file.fileno())  # half a library, after a crash, would end every process that loads it
        return load(path)
    except (OSError, UserError, ValueError, AttributeError, subprocess.SubprocessError):
        return None


def library_path(source: Source) -> Path:
    """Where the library of this source for this CPU is kept, whether it is there or not."""
    sources = {name: sha256(source.folder / name) for name in (source.main, *source.included)}
    flags = [*FLAGS, *source.flags]
    key = digest_of({"sources": sources, "flags": flags, "cpu": cpu(), "versions": dict(source.versions)})
    return user_cache() / f"{source.name}-{key}.so"


def check_owner(path: Path) -> None:
    """UserError if others could have put their own code there."""
    status = path.stat()
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise UserError(f"'{path}' is another user's, or others may write it")


def compile_to(source: Source, path: Path) -> None:
    """Compile the library; UserError or a SubprocessError if that fails."""
    command = [*compiler(), *FLAGS, *source.flags, "-o", str(path), str(source.folder / source.main)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=SECONDS)


def compiler() -> List[str]:
    """The command of a C++ compiler. UserError, a reason, if there is none."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return [found]
    raise UserError(f"no C++ compiler ({', '.join(COMPILERS)}) is on PATH")
