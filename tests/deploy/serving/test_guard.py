"""A browser's pages of elsewhere can neither read the service nor let it work."""

import socket

import pytest

from effedge.deploy.serving.guard import Guard, host_name
from tests.deploy.scenes import png, scene


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("demo.localhost:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.20", 200),
        (socket.gethostname(), 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example", 400),
        ("", 400),
    ],
)
def test_a_host_that_is_no_name_of_the_service_is_refused(serve, build, host, status):
    running = serve(build())
    answer = running.client.get("/v2", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "--allow-host" in answer.json()["error"]


@pytest.mark.parametrize(
    ("hosts", "host", "known"),
    [
        (["Board.lan"], "board.lan", True),
        (["board.lan"], "other.lan", False),
        (["*"], "other.lan", True),
    ],
)
def test_names_that_were_given_are_known(hosts, host, known):
    guard = Guard(None, None, hosts)
    scope = {"headers": [(b"host", host.encode())]}
    if known:
        guard.check(scope)
    else:
        with pytest.raises(Exception, match=host):
            guard.check(scope)


def test_host_names():
    assert host_name("[::1]:80") == "::1" and host_name("a:80") == "a" and host_name("a") == "a"


def test_a_page_of_another_origin_is_refused(serve, build):
    running = serve(build())
    for origin, status in ((running.url, 200), ("http://evil.example", 403), ("null", 403), ("http://localhost", 403)):
        answer = running.client.post("/detect", content=png(scene()), headers={"Origin": origin})
        assert answer.status_code == status
    assert answer.json()["error"].count("\n") == 0


def test_answers_are_not_kept_nor_taken_for_another_type(serve, build):
    running = serve(build())
    for answer in (running.client.get("/v2"), running.client.get("/nothing"), running.client.post("/detect")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "server" not in answer.headers
