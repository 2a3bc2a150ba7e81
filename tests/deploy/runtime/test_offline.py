"""effedge's commands look up no host, and write nothing outside of their output, effedge's cache and the temporary
folder: seen from their system calls."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
CALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat"
NETWORK = re.compile(r"sa_family=AF_INET6?\b")
RESOLVER = re.compile(r'"/etc/(resolv\.conf|hosts|gai\.conf)"|nscd/socket|systemd/resolve')
WRITES = re.compile(r"O_CREAT|O_WRONLY|O_RDWR|^(creat|mkdir|rename|link)")
PATHS = re.compile(r'(?:AT_FDCWD|\d+)<([^>]*)>, "([^"]*)"|"([^"]*)"')  # a folder and a name in it, or a name
HARMLESS = ("/dev/", "/proc/", "/sys/")


@pytest.fixture
def traced(tmp_path):
    """traced(command, ...): runs an effedge command, and returns what it did that it must not do; the folders home and
    out are new."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt-get install strace")
    home, out, trace = (tmp_path / name for name in ("home", "out", "trace"))
    for folder in (home, out, tmp_path / "temporary"):
        folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment.update(
        HOME=str(home), XDG_CACHE_HOME=str(tmp_path / "cache"), TMPDIR=str(tmp_path / "temporary"),
        PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    allowed = tuple(str(tmp_path / name) for name in ("out", "cache/effedge", "temporary", "engine/.compiled"))

    def run(*arguments, program=("-m", "effedge")):
        options = ["-f", "-y", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", trace]
        command = ["strace", *options, sys.executable, *program, *arguments]
        done = subprocess.run([*map(str, command)], cwd=out, env=environment, capture_output=True, text=True)
        if "ptrace" in done.stderr and "ermi" in done.stderr:
            pytest.skip(f"no process can be traced here: {done.stderr.strip().splitlines()[0]}")
        assert done.returncode == 0, done.stderr
        lines = trace.read_text(errors="replace").splitlines()
        assert len(lines) > 100  # of reading Python's modules alone
        return [line for line in lines if is_forbidden(line.partition(" ")[2].strip(), allowed)] + [*home.iterdir()]

    return run


def is_forbidden(call, allowed):
    """Tells if a line of the trace is a look-up, a connection, or a write outside of the folders `allowed`."""
    if NETWORK.search(call) or RESOLVER.search(call):
        return True
    if not WRITES.search(call) or re.search(r"= -1 E", call):
        return False
    target = PATHS.findall(call)[-1]  # of a rename or link the second
    path = os.path.normpath(os.path.join(allowed[0], target[0], target[1] or target[2]))  # `allowed[0]` is the cwd
    parents = [str(Path(folder).parent) for folder in allowed]  # which are created too
    return not (path + "/").startswith((*HARMLESS, *(folder + "/" for folder in allowed))) and path not in parents


@pytest.fixture
def tiny_onnx(tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["convolved"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["y"], "relu"),
    ]
    shapes = {"x": [1, 3, 16, 16], "y": [1, 4, 16, 16]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", values[:1], values[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def test_predict_and_latency_stay_offline(build, traced):
    engine = build()
    Image.new("RGB", (64, 64), "red").save(engine.parent / "red.png")
    assert traced("predict", engine, engine.parent / "red.png", "--out", "drawn", "--json", "found.json") == []
    assert traced("latency", engine, "--iterations", "3", "--json", "latency.json") == []


@pytest.mark.parametrize("target", ["cpu", "cpu-ort"])
def test_engine_stays_offline(tiny_onnx, traced, target):
    """The chain imports PyTorch, onnxsim, OpenVINO and ONNX Runtime, and builds in processes of its own."""
    assert traced("engine", "--onnx", tiny_onnx, "--precision", "fp32", "--target", target, "--out", "built") == []


@pytest.mark.parametrize("package", ["openvino", "onnxruntime"])
def test_the_trace_sees_what_effedge_turns_off(traced, package):
    assert traced(program=("-c", f"import effedge, {package}")) == []
    if traced(program=("-c", f"import {package}")) == []:
        pytest.skip(f"this {package} has no telemetry")
