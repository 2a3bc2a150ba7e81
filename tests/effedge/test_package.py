"""The installed package: one name on the import path, which gets along with a project that has rooms of the same names.

A wheel is built from this checkout and installed into a folder of its own; the packages that it depends on are those of
the environment that runs the tests.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import effedge
from effedge.commands import COMMANDS
from effedge.deploy.common.code_digest import ROOT, module_path

OWN = {
    "deploy/__init__.py": "WHOSE = 'the project'\n",
    "pipeline.py": "WHOSE = 'the project'\n",
    "engines/__init__.py": "",
    "tests/test_own.py": (
        "import deploy, engines, pipeline\n"
        "import effedge\n"
        "def test_both():\n"
        "    assert deploy.WHOSE == pipeline.WHOSE == 'the project'\n"
        "    assert effedge.Detector.__module__ == 'effedge.deploy.runtime.detector'\n"
        "    assert effedge.__file__.startswith(INSTALLED)\n"
        "def test_the_plugin_is_there(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('effedge-latency')\n"
    ),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or later builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "tests", "docs", ".*_cache", "__pycache__", "*.egg-info")
    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=ignored)  # setuptools works within it
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True)
    [path] = folder.glob("effedge-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def run_in(folder, installed, *words):
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_wheel_has_effedge_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"effedge", f"effedge-{effedge.__version__}.dist-info"}
    sources = {path.relative_to(ROOT) for room in ("pipeline", "calibration", "engines", "deploy")
               for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert {f"effedge/{path.as_posix()}" for path in sources} <= set(names), "a file of a room is missing in the wheel"
    assert "effedge/py.typed" in names


def test_a_project_with_rooms_of_the_same_names_passes_its_tests(installed, tmp_path):
    for name, text in OWN.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("INSTALLED", repr(str(installed))))
    done = run_in(tmp_path, installed, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_command_works_from_any_folder(installed, tmp_path):
    done = run_in(tmp_path, installed, "-m", "effedge", "--version")
    assert done.stdout == f"effedge {effedge.__version__}\n"
    done = run_in(tmp_path, installed, "-m", "effedge", "summary", "b0")
    assert done.returncode == 0 and "5,288,548" in done.stdout, done.stdout + done.stderr


def test_the_names_that_users_import():
    from effedge import Classifier, Detections, Detector, Runner, UserError, create_model

    assert all(callable(name) for name in (Classifier, Detections, Detector, Runner, create_model))
    assert issubclass(UserError, Exception)
    assert set(effedge.__all__) <= set(dir(effedge))


def test_importing_effedge_imports_nothing_heavy():
    script = "import effedge, sys; print(sorted({'numpy', 'torch', 'onnx', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_the_rooms_are_links_to_the_folders_at_the_top():
    for room in ("pipeline", "calibration", "engines", "deploy"):
        link = Path(ROOT, "effedge", room)
        assert link.is_symlink() and link.resolve() == ROOT / room


def test_every_command_has_a_module():
    assert [name for name, command in COMMANDS.items() if module_path(command.module) is None] == []
