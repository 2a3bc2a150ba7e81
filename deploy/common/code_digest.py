"""Computes the digest of our own code that an artefact depends on, from the imports of the modules that make it.

A module depends on

1. the modules of effedge that it imports, at its top or within a function, but for those that only type checkers read;
2. the `__init__.py` of each package that it lies in;
3. the C++ and CUDA sources in its own folder, and what those include with #include "...".

A module that is imported by a name in a string, as a backend is, is no import that can be read: whoever starts the
stage names it too.
"""

import ast
import hashlib
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import FrozenSet, Iterator, Optional, Set

PACKAGE = "effedge"
# The rooms' folder: the repository's root, or in an installed package the package's own.
ROOT = Path(__file__).resolve().parents[2]
COMPILED_SUFFIXES = (".cpp", ".cu")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def code_digest(*modules: str) -> str:
    """SHA-256 over the path and content of every source file that the modules, such as "effedge.deploy.predict", depend
    on."""
    digest = hashlib.sha256()
    for path in sorted(source_files(*modules)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def source_files(*modules: str) -> Set[Path]:
    """The files that the modules depend on, by the rules above. ValueError for a module that does not exist."""
    waiting = list(modules)
    files: Set[Path] = set()
    seen: Set[str] = set()
    while waiting:
        module = waiting.pop()
        if module == "__main__":  # run by `python -m`
            module = sys.modules[module].__spec__.name  # type: ignore[union-attr]
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
    """The source file of a module or package in one of the rooms; None if there is none."""
    parts = module.split(".")
    if parts[0] != PACKAGE or len(parts) < 2:
        return None
    base = ROOT.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def packages_above(path: Path) -> Set[Path]:
    folders = path.relative_to(ROOT).parents
    return {ROOT / folder / "__init__.py" for folder in folders if (ROOT / folder / "__init__.py").is_file()}


@lru_cache(maxsize=None)
def imported_modules(path: Path) -> FrozenSet[str]:
    """The modules of effedge that a source file imports."""
    found = set()
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}  # a module of the package, or just a name
    return frozenset(module for module in found if module_path(module) is not None)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


@lru_cache(maxsize=None)
def native_sources(folder: Path) -> FrozenSet[Path]:
    """The C++ and CUDA sources in a folder and all that they include."""
    waiting = [path for path in folder.iterdir() if path.suffix in COMPILED_SUFFIXES]
    found: Set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += [(path.parent / name).resolve() for name in INCLUDE.findall(path.read_text(encoding="utf-8"))]
    return frozenset(found)
