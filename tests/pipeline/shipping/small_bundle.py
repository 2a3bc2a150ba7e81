"""Packs small bundles for a board that is a folder here.

Their install.sh is a stand-in: it says some lines, waits if it shall, and leaves what a real one leaves.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from effedge.deploy.common.files import sha256
from effedge.deploy.timing.board import board as read_board

INSTALL = r"""
cd "$(dirname "$0")"; echo begun >> runs
echo "engine: making engine"
while [ -f "$BOARD/wait" ]; do sleep 0.05; done
if [ -f "$BOARD/refuse" ]; then echo "error: this bundle is for jetson-orin, and this board is another" >&2; exit 2; fi
mkdir -p engine; for file in engine/manifest.json found.json; do echo '{}' > $file; done
cp selftest/* .
echo "install: it runs here"
"""
EMPTY = read_board(Path("/nowhere"))  # a board that tells nothing
BOARD = {"before": EMPTY, "after": EMPTY}
LATENCY = {
    "engine": {"folder": "engine", "precision": "int8", "backend": {"name": "tensorrt", "version": "10.3.0"}},
    "machine": {"cpu": "Arm", "cores": 6}, "board": BOARD,
    "batch": 1, "runs": 20, "warm_up_runs": 4, "load_ms": 10, "throughput": None,
    "steps": {"engine": {"p50": 1.63, "p90": 1.7, "p99": 1.9, "min": 1.6, "per_second": 600.0}},
}  # fmt: skip
INSTALLED = {
    "name": "net-int8-jetson-orin", "built_for": "jetson-orin", "backend": LATENCY["engine"]["backend"],
    "convolutions": {"int8": 80}, "self_test": {"expected": 7, "iou": 0.97, "score": 0.01},
}  # fmt: skip
NAME = "net-int8-jetson-orin"


def pack(path, install=INSTALL):
    """Writes a bundle, whose folder has the file's name, of some 300 kB that do not compress, each time others."""
    files = {
        "install.sh": install.encode(), "selftest/latency.json": json.dumps(LATENCY).encode(),
        "selftest/installed.json": json.dumps(INSTALLED).encode(), "model/model.onnx": os.urandom(300_000),
    }  # fmt: skip
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files["SHA256SUMS"] = sums.encode()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as packed:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{path.name[: -len('.tar.gz')]}/{name}")
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    path.write_bytes(gzip.compress(plain.getvalue()))
    return path


def folder_of(board, archive):
    """The folder on the board in which this archive is, or was, installed."""
    return board / "effedge" / f".{NAME}-{sha256(archive)[:16]}"
