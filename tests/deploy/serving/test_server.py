"""`effedge serve` as a process: its messages, its mistakes in one line, and its end by a signal."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from effedge.deploy.serving import serve as command
from effedge.deploy.serving.models.load import names_of
from tests.deploy.scenes import png, scene
from tests.deploy.serving.test_app import half_sent

ROOT = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def started(*words, name="serve"):
    """A process of a command, and its address. It is killed at the end, if it still runs."""
    line = [sys.executable, "-m", f"effedge.deploy.serving.{name}", *map(str, words), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=str(ROOT), env=environment
    ) as process:
        watch = threading.Timer(60, process.kill)
        watch.start()
        try:
            url = None
            for printed in process.stdout:
                url = re.search(r"http://\S+?(?=[; ])", printed)
                if url is not None:
                    break
            assert url is not None, process.stderr.read()
            yield process, url.group()
        finally:
            watch.cancel()
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_finishes_what_runs_refuses_what_is_new_and_exits_with_0(build, number):
    with started(build()) as (process, url):
        body = png(scene())
        wait_for_answer(url)
        with half_sent(url, body) as connection:
            time.sleep(0.2)  # until the request has a place
            process.send_signal(number)
            wait_for_refusal(url)
            connection.sendall(body[len(body) // 2 :])
            answer = b""
            while b'"blue"' not in answer:
                part = connection.recv(1 << 16)
                assert part, answer
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def wait_for_answer(url):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/v2/health/ready").raise_for_status()
        time.sleep(0.05)
    raise AssertionError("the service does not answer")


def wait_for_refusal(url):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            httpx.get(f"{url}/v2/health/ready", headers={"Connection": "close"})
        except httpx.ConnectError:
            return
        except httpx.TransportError:  # it connected, and the listening socket was closed before it was accepted
            pass
        time.sleep(0.05)
    raise AssertionError("the service still takes connections")


def test_a_second_signal_ends_it_at_once(build):
    with started(build()) as (process, url):
        wait_for_answer(url)
        with half_sent(url):
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            wait_for_refusal(url)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 128 + signal.SIGTERM
            assert time.monotonic() - begun < 10  # not the 30 s of a request
        assert process.stderr.read().count("\n") == 1


def test_an_idle_connection_does_not_hold_up_the_end(build):
    with started(build()) as (process, url):
        wait_for_answer(url)
        host, port = url[len("http://") :].split(":")
        with socket.create_connection((host, int(port))), httpx.Client(base_url=url) as client:
            assert client.get("/v2").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_it_is_reached_from_this_machine_only_and_says_so_where_it_is_not(build):
    with started(build()) as (_, url):
        assert url.startswith("http://127.0.0.1:")
    with started(build(name="open"), "--host", "0.0.0.0") as (process, url):
        wait_for_answer(url.replace("0.0.0.0", "127.0.0.1"))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stderr.read().startswith("warning: everybody who reaches this address")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "'nothing' does not exist"),
        (["ENGINE", "--port", "x"], "a whole number"),
        (["ENGINE", "--port", "99999"], "cannot listen at port 99999: expected 0 to 65535"),
        (["ENGINE", "--host", "192.0.2.1"], "cannot listen at 192.0.2.1"),
        (["ENGINE", "--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["ENGINE", "--places", "0"], "--places 0"),
        (["ENGINE", "--timeout", "0"], "a number above 0"),
        ([], "ENGINE"),
    ],
)
def test_a_mistake_is_one_line(build, call_main, words, message):
    words = [str(build()) if word == "ENGINE" else word for word in words]
    status, _, errors = call_main(command.main, *words)
    assert status == 2 and errors.startswith("error: ") and message in errors and errors.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(build, call_main):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, _, errors = call_main(command.main, build(), "--port", other.getsockname()[1])
    assert status == 2 and "already in use" in errors and errors.count("\n") == 1


def test_without_its_packages_it_says_what_to_install(build, call_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    status, _, errors = call_main(command.main, build())
    assert status == 2 and "pip install starlette python-multipart" in errors


def test_engines_are_named_by_model_and_precision(build, edit, adder):
    folders = [build(name=name) for name in ("a", "b", "c")]
    edit(folders[0], lambda manifest: manifest.update(precision={"asked": "int8"}))
    edit(folders[1], lambda manifest: manifest.update(precision={"asked": "fp32"}))
    edit(folders[2], lambda manifest: manifest["spec"].update(model="my model/ü"))
    assert names_of([*folders, adder]) == ["tiny-int8", "tiny-fp32", "my-model--", "adder"]


def test_the_load_test_counts_refusals_and_finds_every_answer_the_same(build):
    """`tests/benchmarks/serving_load.py` with four clients of a service of one place, for two seconds."""
    script = ROOT / "tests" / "benchmarks" / "serving_load.py"
    words = [str(build()), "--clients", "4", "--seconds", "2", "--serve=--places=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script), *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    statuses = re.search(r"statuses: {(.*)}, answers that differ from the first: 0", done.stdout)
    assert statuses is not None and "200:" in statuses.group(1) and "429:" in statuses.group(1)
    assert "memory: " in done.stdout
