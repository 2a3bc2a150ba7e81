"""Sets up what all tests share: signals, printed messages, and calls of a command's main."""

from __future__ import annotations  # the tests of deploy/ run on Python 3.8 too

import ctypes
import logging
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from effedge.deploy.common.cli import run
from effedge.deploy.common.messages import log, show_messages

# A job in the background of a shell starts with Ctrl-C ignored, one under nohup with the end of the session, and its
# children inherit that; the tests of these signals need them as they are in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SS_DISABLE = 2  # of sigaltstack(2)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which Python 3.8 runs without
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says how a process of pytest-xdist ended that was not to end: its exit status, or minus the signal."""
    if error:
        print(f"\n{node.gateway.id} ended: {error!r}, exit status {node.gateway._io.wait()}", file=sys.stderr)


class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@pytest.fixture(autouse=True)
def no_signal_stack():
    """Handle signals on the usual stack. faulthandler (pytest's, or a library's) sets up another, too small for the
    registers of a process that OpenVINO computes in: there a Ctrl-C that a test sends ends in a segmentation fault."""
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(None, SS_DISABLE, 0)), None)


@pytest.fixture(autouse=True)
def printed_messages():
    """Messages are printed as in a command, and each test finds them so."""
    show_messages()
    log.setLevel(logging.INFO)
    logging.getLogger("effedge.progress").disabled = False


@pytest.fixture
def call_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """call_main(main, *words): a script's exit status, and what it printed to stdout and stderr."""

    def call(main: Callable[[], None], *words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            run(main)
        return caught.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def compiled_libcuda(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the libcuda for tests."""
    from tests.deploy.fake_cuda import compile_libcuda

    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc) to compile a libcuda for tests with")
    return str(compile_libcuda(compiler, tmp_path_factory.mktemp("libcuda")))


@pytest.fixture
def fake_libcuda(monkeypatch: pytest.MonkeyPatch, compiled_libcuda: str):
    """fake_libcuda(cuda) answers the calls of libcuda by a FakeCuda."""
    from effedge.deploy.runtime.tensorrt import libcuda

    libcuda.library.cache_clear()
    monkeypatch.setattr(libcuda, "LIBRARY", compiled_libcuda)
    yield lambda cuda: libcuda.library().set_handler(cuda.handler)
    libcuda.library().set_handler(None)
    libcuda.library.cache_clear()
