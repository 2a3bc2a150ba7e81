"""Looks up every member of TensorRT's Python API that effedge uses in NVIDIA's own bindings.

The bindings of six versions come from the package index by themselves, 1 MB each; the libraries that they are bound to
are replaced by a stub (bindings_stub.c). The members are read out of effedge's sources: attributes of variables that
hold an object of TensorRT, which are named after its class throughout.

1. A member that engines/tensorrt/api.py or deploy/runtime/tensorrt/api.py uses is in at least one version: these two
   know in which TensorRT a name came or went.
2. A member that another module uses is in all versions.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BINDINGS = {
    "8.6.1": "tensorrt-bindings",
    "10.3.0": "tensorrt-cu12-bindings",
    "10.7.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu13-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
SOURCES = sorted({*(ROOT / "engines/tensorrt").glob("*.py"), *(ROOT / "deploy/runtime/tensorrt").glob("*.py")})
ADAPTERS = ("engines/tensorrt/api.py", "deploy/runtime/tensorrt/api.py")
NOT_TENSORRT = ("gpu.py", "detector_steps.py", "plan_text.py")  # CUDA's contexts, and our own layers
# The class of the object in a variable of that name; "" is the module itself.
CLASS_OF = {
    "trt": "", "module": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "engine": "ICudaEngine", "self.engine": "ICudaEngine", "context": "IExecutionContext",
    "self.context": "IExecutionContext", "runtime": "Runtime", "self.runtime": "Runtime",
    "profile": "IOptimizationProfile", "engine.create_engine_inspector()": "EngineInspector",
}  # fmt: skip
# Of the network's objects, in the modules that use no Layer of ours under that name.
NETWORK_CLASS_OF = {
    "layer": "ILayer",
    "tensor": "ITensor",
    "inputs[0]": "ITensor",
    "layer.get_output(index)": "ITensor",
}
NETWORK_MODULES = ("api.py", "layer_precision.py", "ranges.py")
# Of TensorRT-RTX alone; that it has them, tests/deploy/runtime/tensorrt/test_api.py checks.
RTX_ONLY = {
    ("", "ComputeCapability"), ("ComputeCapability", "CURRENT"), ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
    ("", "DynamicShapesKernelSpecializationStrategy"), ("DynamicShapesKernelSpecializationStrategy", "EAGER"),
    ("IBuilderConfig", "num_compute_capabilities"), ("IBuilderConfig", "set_compute_capability"),
    ("ICudaEngine", "create_runtime_config"),
}  # fmt: skip
# Used only where the target's row says that its builder reports progress: TensorRT 10 and later.
SINCE_10 = {("", "IProgressMonitor"), ("IBuilderConfig", "progress_monitor")}
PYTHONS_OWN = {"__name__", "__version__", "__init__", "__members__"}
LIST_MEMBERS = (
    "import importlib, json, sys; sys.path.insert(0, sys.argv[1]); trt = importlib.import_module(sys.argv[2]);"
    "print(json.dumps({'': dir(trt), **{name: dir(getattr(trt, name)) for name in dir(trt)}}))"
)


def used_members(path: Path) -> set[tuple[str, str]]:
    """The (class, member) pairs that a source uses; those of `trt.BuilderFlag.FP16` are ("", "BuilderFlag") and
    ("BuilderFlag", "FP16")."""
    used = set()
    class_of = {**CLASS_OF, **(NETWORK_CLASS_OF if path.name in NETWORK_MODULES else {})}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute) or node.attr in PYTHONS_OWN:
            continue
        owner = ast.unparse(node.value)
        if owner in class_of:
            used.add((class_of[owner], node.attr))
        elif owner.startswith(("trt.", "module.")) and owner.count(".") == 1 and not owner.endswith("__"):
            used.add((owner.split(".")[1], node.attr))
    return used


ALL_USED = {path.relative_to(ROOT).as_posix(): used_members(path) for path in SOURCES if path.name not in NOT_TENSORRT}


def missing(used: dict[str, set[tuple[str, str]]], members: dict[str, dict[str, list[str]]]) -> list[str]:
    """What breaks the two rules, as texts."""
    found = []
    for source, pairs in used.items():
        for owner, name in sorted(pairs - RTX_ONLY):
            versions = [version for version, classes in members.items() if name in classes.get(owner, [])]
            wanted = [
                version for version in members if (owner, name) not in SINCE_10 or int(version.split(".")[0]) >= 10
            ]
            if not versions or (source not in ADAPTERS and not set(wanted) <= set(versions)):
                found.append(f"{source}: {owner or 'tensorrt'}.{name} is in {versions or 'no version'}")
    return found


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Version -> class -> its members, in NVIDIA's bindings. Skips where the package index is out of reach."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the stub of TensorRT's libraries with")
    root = tmp_path_factory.mktemp("bindings")
    return {version: members_of(version, package, root / version, compiler) for version, package in BINDINGS.items()}


def members_of(version: str, package: str, folder: Path, compiler: str) -> dict[str, list[str]]:
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--target",
    ]
    done = subprocess.run([*install, str(folder), f"{package}=={version}"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{package} {version} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    stub = Path(__file__).with_name("bindings_stub.c")
    for library in LIBRARIES:
        out = folder / f"lib{library}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(stub)], check=True)
    [name] = [path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("tensorrt") and
              not path.name.endswith("info")]  # fmt: skip
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", LIST_MEMBERS, str(folder), name]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def test_every_member_that_is_used_exists(members):
    assert missing(ALL_USED, members) == []
    assert sum(map(len, ALL_USED.values())) > 60 and set(members) == set(BINDINGS)


def test_a_misspelt_member_and_one_that_went_are_found(members):
    wrong = {
        "engines/tensorrt/builder.py": {("IBuilderConfig", "set_flagg"), ("BuilderFlag", "FP16")},
        "engines/tensorrt/api.py": {("BuilderFlag", "FP16"), ("ICudaEngine", "device_memory")},
    }
    texts = missing(wrong, members)
    assert [text.split(" is in ")[0] for text in texts] == [
        "engines/tensorrt/builder.py: BuilderFlag.FP16",  # gone in 11
        "engines/tensorrt/builder.py: IBuilderConfig.set_flagg",
        "engines/tensorrt/api.py: ICudaEngine.device_memory",
    ]


SIMULATED = ROOT / "tests" / "simulated_board" / "device"
# Prints the same as LIST_MEMBERS, without names of Python's own and those that begin with an underscore.
LIST_OFFERED = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
import tensorrt as trt

def members(owner):
    own = getattr(owner, "__members__", None) or set(dir(owner)) - set(dir(object))
    return sorted(name for name in own if not name.startswith("_"))

names = [name for name in members(trt) if not isinstance(getattr(trt, name), types.ModuleType) and
         getattr(getattr(trt, name), "__module__", "") != "typing"]
classes = {name: members(getattr(trt, name)) for name in names if isinstance(getattr(trt, name), type)}
classes["IBuilderConfig"] += trt.IBuilderConfig().members
print(json.dumps({"": names, **classes}))
"""


@pytest.mark.parametrize(("simulated", "real"), [("8.5.2.2", "8.6.1"), ("10.3.0", "10.3.0"), ("10.16.1.11",) * 2])
def test_the_simulated_boards_tensorrt_offers_nothing_that_nvidias_lacks(simulated, real, members, tmp_path):
    """8.5's bindings are not on the index by themselves; what is in 8.6 and not in 8.5, tensorrt_versions.py says."""
    shutil.copytree(SIMULATED / "tensorrt", tmp_path / "tensorrt")
    module = tmp_path / "tensorrt" / "__init__.py"
    module.write_text(module.read_text().replace('__version__ = "10.3.0"', f'__version__ = "{simulated}"'))
    shutil.copy(ROOT / "tests/engines/tensorrt_versions.py", tmp_path)
    offered = offered_by(tmp_path)
    assert {"Builder", "OnnxParser", "Runtime", "BuilderFlag", "IExecutionContext"} <= set(offered[""])
    assert "set_flag" in offered["IBuilderConfig"] and "execute_async_v3" in offered["IExecutionContext"]
    lacking = {
        f"{owner}.{name}"
        for owner, names in offered.items()
        for name in names
        if name not in members[real].get(owner, [])
    }
    assert lacking == set()


def offered_by(folder: Path) -> dict[str, list[str]]:
    """Class -> its public members, in the module tensorrt in a folder."""
    command = [sys.executable, "-c", LIST_OFFERED, str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
