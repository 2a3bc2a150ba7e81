"""Tests the commands that make a backend importable, each on a system where only that one works."""

import sys

import pytest

from effedge.engines.targets import TARGETS, packages
from effedge.engines.targets.packages import how_to_get, installed_version

NO_TENSORRT = "ModuleNotFoundError: No module named 'tensorrt'"
ORIN, CPU = TARGETS["jetson-orin"], TARGETS["cpu"]
JETPACKS = {"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""}


@pytest.fixture
def python(monkeypatch, tmp_path):
    """Returns a function that pretends a Python: in a virtual environment or not, refusing pip or not."""

    def pretend(*, environment, refuses_pip=False, base="/usr"):
        monkeypatch.setattr(sys, "base_prefix", base)
        monkeypatch.setattr(sys, "prefix", "/home/me/venv" if environment else base)
        if refuses_pip:
            (tmp_path / "EXTERNALLY-MANAGED").touch()
        monkeypatch.setattr(packages.sysconfig, "get_path", lambda name: str(tmp_path))
        monkeypatch.setattr(sys, "executable", "/home/me/venv/bin/python" if environment else "/opt/python3.11")

    return pretend


def test_a_virtual_environment_that_hides_jetpacks_tensorrt_gets_the_systems_packages(plant, python):
    root = plant(JETPACKS)
    python(environment=True)
    assert how_to_get(ORIN, NO_TENSORRT) == (
        f"{root}/usr/lib/python3.10/dist-packages/tensorrt is there, and /home/me/venv/bin/python does not see it: "
        "/usr/bin/python3 -m venv --system-site-packages /home/me/venv"
    )


@pytest.mark.parametrize("environment", [True, False])
def test_another_python_than_ubuntus_gives_way_to_it(plant, python, environment):
    plant(JETPACKS)
    python(environment=environment, base="/opt/conda")
    assert how_to_get(ORIN, NO_TENSORRT).endswith(
        "does not see it: install effedge with /usr/bin/python3 and run it there"
    )


def test_where_there_is_an_install_sh_it_is_named(plant, python, tmp_path, monkeypatch):
    plant(JETPACKS)
    python(environment=True, base="/opt/conda")
    (tmp_path / "install.sh").touch()
    monkeypatch.chdir(tmp_path)
    assert how_to_get(ORIN, NO_TENSORRT).endswith(
        "does not see it: PYTHON=/usr/bin/python3 sh install.sh (make deploy DEVICE_PYTHON=/usr/bin/python3)"
    )


def test_a_path_with_a_blank_is_quoted_for_the_shell(plant, python, monkeypatch):
    plant({})
    python(environment=False)
    monkeypatch.setattr(sys, "executable", "/home/my own/python")
    assert how_to_get(CPU, "No module named 'openvino'") == "'/home/my own/python' -m pip install openvino"


def test_a_jetson_without_jetpacks_package_gets_it_by_apt(plant, python):
    plant({})
    python(environment=False)
    assert how_to_get(ORIN, NO_TENSORRT) == "sudo apt install python3-libnvinfer"
    assert how_to_get(TARGETS["trt"], NO_TENSORRT) == "/opt/python3.11 -m pip install tensorrt"


def test_pip_is_advised_where_it_works(plant, python, monkeypatch, tmp_path):
    plant({})
    (tmp_path / "install.sh").touch()
    monkeypatch.chdir(tmp_path)
    reason = "ModuleNotFoundError: No module named 'pycuda'"
    monkeypatch.setenv("HOME", "/home/me")
    python(environment=False)
    assert how_to_get(ORIN, reason) == "/opt/python3.11 -m pip install pycuda"
    python(environment=False, refuses_pip=True)  # PEP 668
    assert how_to_get(ORIN, reason) == (
        "/opt/python3.11 -m venv --system-site-packages /home/me/effedge-python && /home/me/effedge-python/bin/pip "
        "install pycuda, then PYTHON=/home/me/effedge-python/bin/python sh install.sh (make deploy "
        "DEVICE_PYTHON=/home/me/effedge-python/bin/python)"
    )
    python(environment=True, refuses_pip=True)  # the mark is the system's, and an environment takes pip
    assert how_to_get(CPU, "No module named 'openvino'") == "/home/me/venv/bin/python -m pip install openvino"


def test_the_library_that_slim_systems_lack_is_named(plant):
    reason = "ImportError: libnvdla_compiler.so: cannot open shared object file: No such file or directory"
    assert how_to_get(ORIN, reason) == "sudo apt install nvidia-l4t-dla-compiler"
    assert how_to_get(ORIN, "ends with SIGABRT here") == "install it anew"


def test_a_version_is_read_without_an_import(plant, monkeypatch):
    plant({}, tensorrt="8.5.2.2")
    assert installed_version(ORIN) == "8.5.2.2" and "tensorrt" not in sys.modules
    assert installed_version(CPU) == packages.importlib.metadata.version("openvino")
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert installed_version(ORIN) is None
