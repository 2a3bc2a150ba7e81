"""Answers as the Hugging Face hub does, from files in memory.

A small file comes from its address. A large one (Git LFS) is redirected to a storage server of another name, which
knows ranges; its headers X-Linked-Etag and X-Linked-Size say its SHA-256 and its size (huggingface_hub 2.4.0,
`get_hf_file_metadata`). Every answer carries the commit, and an error the code of its reason.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architecture": "tf_efficientnet_b0",
    "num_classes": 1000,
    "num_features": 1280,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "ns_jft_in1k",
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}


class HubServer(http.server.ThreadingHTTPServer):
    """The hub of `repositories`: files by name, by repository.

    refusals: (status, X-Error-Code) by repository.
    cuts: how many of the next downloads of a large file end in its middle.
    stated_size: of large files, in place of the true one.
    requests: (method, path, Range) of all requests so far.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.cuts, self.stated_size = 0, None
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a client that has left."""

    def add(self, repository: str, weights: dict[str, bytes], config: object = CONFIG) -> None:
        text = {} if config is None else {"config.json": json.dumps(config).encode()}
        self.repositories[repository] = text | weights


class Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if match := re.fullmatch(r"/storage/(\w+)/(\w+)", self.path):
            every = [content for files in self.server.repositories.values() for content in files.values()]
            return self.send_large(next(each for each in every if hashlib.sha256(each).hexdigest() == match[2]))
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None:
            return self.refuse(404, "")
        repository, revision, name = match.groups()
        if repository in self.server.refusals:
            return self.refuse(*self.server.refusals[repository])
        if repository not in self.server.repositories:
            return self.refuse(401, "RepoNotFound")  # as the hub does without a login
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if name not in self.server.repositories[repository]:
            return self.refuse(404, "EntryNotFound")
        self.send_file(name, self.server.repositories[repository][name], with_body)
        return None

    def send_file(self, name: str, content: bytes, with_body: bool) -> None:
        is_large = not name.endswith(".json")
        self.send_response(302 if is_large else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        if is_large:
            digest = hashlib.sha256(content).hexdigest()
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(self.server.stated_size or len(content)))
            self.send_header("Location", f"http://localhost:{self.server.server_port}/storage/signed/{digest}")
        self.send_header("Content-Length", "0" if is_large else str(len(content)))
        self.end_headers()
        if with_body and not is_large:
            self.wfile.write(content)

    def send_large(self, content: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(match[1]) if match else 0
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        rest = content[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
