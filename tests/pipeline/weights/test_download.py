"""Downloads from a local HTTP server: a file that is kept is complete and has the right hash."""

import hashlib
import http.server
import threading

import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.weights.download import cache_folder, download

CONTENT = bytes(range(256)) * 20_000  # several chunks
PREFIX = hashlib.sha256(CONTENT).hexdigest()[:8]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/missing.pth":
            self.send_error(404)
            return
        if self.path == "/nonsense.pth":
            self.wfile.write(b"nonsense\r\n")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/short.pth" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFEDGE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def cached():
    return sorted(path.name for path in cache_folder().iterdir()) if cache_folder().exists() else []


def test_a_file_is_downloaded_once(server):
    first = download(f"{server.url}/a.pth", PREFIX)
    second = download(f"{server.url}/a.pth", PREFIX)
    assert first == second == cache_folder() / "a.pth"
    assert first.read_bytes() == CONTENT
    assert server.requests == ["/a.pth"]


def test_a_file_that_was_put_there_by_hand_needs_no_network(server):
    cache_folder().mkdir()
    (cache_folder() / "a.pth").write_bytes(CONTENT)
    assert download("http://127.0.0.1:9/a.pth", PREFIX).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_downloaded_again(server):
    cache_folder().mkdir()
    (cache_folder() / "a.pth").write_bytes(CONTENT[:-1])
    assert download(f"{server.url}/a.pth", PREFIX).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("file", "prefix", "reason"),
    [
        ("a.pth", "00000000", "SHA-256"),
        ("short.pth", PREFIX, "cut short at 2560000 of 5120000 bytes"),
        ("missing.pth", PREFIX, "404"),
        ("nonsense.pth", PREFIX, "cannot download"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(server, file, prefix, reason):
    with pytest.raises(UserError) as caught:
        download(f"{server.url}/{file}", prefix)
    message = str(caught.value)
    assert reason in message and f"{server.url}/{file}" in message and str(cache_folder() / file) in message
    assert cached() == []


def test_without_a_network_the_error_says_where_to_put_the_file(server):
    with pytest.raises(UserError) as caught:
        download("http://127.0.0.1:9/a.pth", PREFIX)  # nobody listens on the discard port
    message = str(caught.value)
    assert "refused" in message and "http://127.0.0.1:9/a.pth" in message and str(cache_folder() / "a.pth") in message
    assert cached() == []


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFFEDGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot write"):
        download(f"{server.url}/a.pth", PREFIX)
