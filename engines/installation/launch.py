"""Runs effedge, or code that uses it, without importing anything from the folder that it is started in.

    python3 -I effedge/engines/installation/launch.py effedge.engines.install ...
    python3 -I effedge/engines/installation/launch.py -c CODE

`python -m effedge` puts the current folder first on the path: a json.py that lies beside a bundle's files would be
imported in place of Python's. By `-I` Python ignores that folder, and with it the user's own packages and PYTHONPATH,
where a board may have NumPy or TensorRT: they are added again. The package is loaded from this file's place.
"""

import importlib.util
import os
import runpy
import site
import sys
from typing import List

HERE = os.path.abspath(__file__)
PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
NAME = "effedge"
INIT = "__init__.py"


def command(*words: str) -> List[str]:
    """Returns the words of a command that runs this file with this Python."""
    return [sys.executable, "-I", HERE, *words]


def add_users_packages() -> None:
    """Adds the folders of PYTHONPATH and of the user's own packages, as Python without -I has them.

    Relative folders are left out, and the folder that the package lies in.
    """
    root = os.path.dirname(os.path.realpath(PACKAGE))
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    named = [path for path in named if os.path.realpath(path) != root]
    sys.path[:0] = named
    if any(os.path.isfile(os.path.join(path, "sitecustomize.py")) for path in named):
        sys.modules.pop("sitecustomize", None)  # the system's, which Python has imported
        site.execsitecustomize()
    in_venv = sys.prefix != sys.base_prefix
    if not in_venv and not os.environ.get("PYTHONNOUSERSITE") and os.path.isdir(site.getusersitepackages()):
        site.addsitedir(site.getusersitepackages())


def load_package() -> None:
    """Imports the package from this file's place, whatever other is installed."""
    spec = importlib.util.spec_from_file_location(
        NAME, os.path.join(PACKAGE, INIT), submodule_search_locations=[PACKAGE]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def main(words: List[str]) -> None:
    """Runs the module that the first word names, with the others as its arguments; "-c" runs code."""
    add_users_packages()
    load_package()
    sys.argv[:] = words
    if words[0] == "-c":
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
