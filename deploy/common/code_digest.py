"""Computes the digest of the code of effedge that an artefact depends on, from the imports of the modules that make it.

A module depends on

1. the modules of effedge that it imports, at its top or within a function, except imports under `if TYPE_CHECKING:`;
2. the `__init__.py` of each package that it lies in;
3. the C++ and CUDA sources in its own folder, and the files that those include with #include "...".

A module that is imported by a name in a string, as a backend is, is not found by these rules: the caller of
`code_digest` names it too.
"""

import ast
import re
from functools import lru_cache
from pathlib import Path
from typing import FrozenSet, Iterator, Optional, Set

from effedge.deploy.common.files import sha256_of_bytes

PACKAGE = "effedge"
# The rooms' folder: the repository's root, or in an installed package the package's own.
ROOT = Path(__file__).resolve().parents[2]
COMPILED_SUFFIXES = (".cpp", ".cu")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def code_digest(*modules: str) -> str:
    """Computes the SHA-256 of the paths and contents of all source files that modules depend on.

    `modules`: names such as "effedge.deploy.predict".
    """
    return sha256_of_bytes(
        path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes()
        for path in sorted(source_files(*modules))
    )


def source_files(*modules: str) -> Set[Path]:
    """Returns the files that modules depend on, by the rules above. Raises ValueError for a module that does not
    exist."""
    waiting = list(modules)
    files: Set[Path] = set()
    seen: Set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = module_path(module)
        if path is None:
            raise ValueError(f"there is no module '{module}' in {ROOT}")
        files |= {path, *packages_above(path), *native_sources(path.parent)}
        waiting += imported_modules(path)
    return files


def module_path(module: str) -> Optional[Path]:
    """Returns the source file of a module or package of effedge; None if there is none."""
    parts = module.split(".")
    if parts[0] != PACKAGE or len(parts) < 2:
        return None
    base = ROOT.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def packages_above(path: Path) -> Set[Path]:
    """Returns the `__init__.py` of each package that a source file lies in."""
    folders = path.relative_to(ROOT).parents
    return {ROOT / folder / "__init__.py" for folder in folders if (ROOT / folder / "__init__.py").is_file()}


@lru_cache(maxsize=None)
def imported_modules(path: Path) -> FrozenSet[str]:
    """Returns the modules of effedge that a source file imports."""
    found = set()
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}  # a module of the package, or just a name
    return frozenset(module for module in found if module_path(module) is not None)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields all nodes but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


@lru_cache(maxsize=None)
def native_sources(folder: Path) -> FrozenSet[Path]:
    """Returns the C++ and CUDA sources in a folder and all files that they include."""
    waiting = [path for path in folder.iterdir() if path.suffix in COMPILED_SUFFIXES]
    found: Set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += [(path.parent / name).resolve() for name in INCLUDE.findall(path.read_text(encoding="utf-8"))]
    return frozenset(found)
