"""Runs a real Triton server on a model repository.

EFFEDGE_TRITON_PYTHON names a Python with the packages tritonclient[http,grpc], pillow, openvino and, unless a server is
installed as in NVIDIA's container, nvidia-pytriton, which carries one (with NumPy below 2, as that says).
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

PYTHON = os.environ.get("EFFEDGE_TRITON_PYTHON", "")
CONTAINERS = "/opt/tritonserver/bin/tritonserver"
SECONDS = 180  # to load all models on a busy machine
CLIENT = Path(__file__).with_name("client.py")
WHERE = """
import importlib.util, json, sys, sysconfig
spec = importlib.util.find_spec("pytriton")
print(json.dumps([sysconfig.get_paths()["purelib"], "%d.%d" % sys.version_info[:2],
                  list(spec.submodule_search_locations)[0] if spec else None]))
"""


def command_and_environment(folder: Path):
    """The words that start the server, and its environment; `folder` is for what has to be put together."""
    packages, version, pytriton = json.loads(subprocess.check_output([PYTHON, "-c", WHERE]))
    path = os.pathsep.join([str(Path(PYTHON).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": packages, "PATH": path}
    if pytriton is None:
        return [shutil.which("tritonserver") or CONTAINERS], environment
    server = Path(pytriton) / "tritonserver"
    shutil.copytree(str(server / "backends"), str(folder / "backends"))
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(str(server / "python_backend_stubs" / version / stub.name), str(stub))
    for program in (stub, server / "bin" / "tritonserver"):
        program.chmod(0o755)
    environment["LD_LIBRARY_PATH"] = str(Path(packages) / "nvidia_pytriton.libs")
    return [str(server / "bin" / "tritonserver"), f"--backend-directory={folder / 'backends'}"], environment


def free_ports(count: int):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """A server that is ready, with its addresses by protocol."""

    def __init__(self, http: int, grpc: int) -> None:
        self.addresses = {"http": f"127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"}

    def ask(self, protocol, model, paths, concurrent=1, **parameters):
        """Asks for the results of files; returns what client.py prints."""
        words = [
            PYTHON,
            str(CLIENT),
            protocol,
            self.addresses[protocol],
            model,
            str(concurrent),
            json.dumps(parameters),
        ]
        done = subprocess.run(words, input="\n".join(map(str, paths)), capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextlib.contextmanager
def running(repository: Path, folder: Path):
    """Runs a server on a repository within the block. Skips the test without EFFEDGE_TRITON_PYTHON."""
    if not PYTHON:
        pytest.skip("EFFEDGE_TRITON_PYTHON names no Python with a Triton server (nvidia-pytriton)")
    folder.mkdir()
    words, environment = command_and_environment(folder)
    http, grpc = free_ports(2)
    words += [
        f"--model-repository={repository}", f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1",
    ]  # fmt: skip
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(words, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(process, http, log)
        yield Server(http, grpc)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_ready(process, port: int, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError):
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready").status == 200:
                return
        time.sleep(0.5)
    pytest.fail(f"the server is not ready:\n{log.read_text()[-5000:]}")
