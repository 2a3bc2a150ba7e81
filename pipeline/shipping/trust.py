"""Pins a public key on a board at the first contact, from which on the board takes no bundle that it has not signed.

The key, and the program that checks bundles by it (deploy/signed_bundle.py), are in ~/effedge/.trusted there. They
judge the bundles that come later, because a bundle's own install.sh can be changed with the bundle. Nothing of effedge
replaces them: to pin another key, remove that folder on the board.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from effedge.deploy import signed_bundle
from effedge.deploy.runtime.signature import (
    ask_private_key,
    check_signed_bundle,
    public_bytes,
    read_public_key,
    sign_bundle,
)
from effedge.pipeline.shipping.ssh import Board

TRUSTED = ".trusted"  # of ~/effedge on the board, and of install.sh
# The program comes on standard input. It is run before it is pinned, as a board that cannot check takes nothing at all.
PIN = """
mkdir -p effedge && cd effedge || exit 1
if [ ! -d {trusted} ]; then
    umask 077
    rm -rf {trusted}.new && mkdir {trusted}.new && cat > {trusted}.new/check.py &&
        printf '%s' {key} > {trusted}.new/key.pub &&
        {python} -I {trusted}.new/check.py {trusted}.new/key.pub || {{ rm -rf {trusted}.new; exit 1; }}
    sync
    mv -T {trusted}.new {trusted} || exit 1
    echo pinned
fi
printf '%s' {key} | cmp -s - {trusted}/key.pub || {{
    echo "another key is pinned there: give that one, or remove ~/effedge/{trusted} there to pin this one" >&2
    exit 1; }}
"""
PUT_SIGNATURE = "cd effedge/{work} && cat > .{name}.new && mv -f .{name}.new {name}"
# Runs in a bundle's folder, before anything of the bundle. Python's caches are code that no signature covers, and are
# made again.
CHECK = (
    "find effedge -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null; "
    f'[ ! -e ../{TRUSTED} ] || "$PYTHON" -I ../{TRUSTED}/check.py ../{TRUSTED}/key.pub "$PWD" || exit 2'
)


def sign_or_check(archive: Path, key: Path) -> bytes:
    """Signs an archive, if the key is a private one; else checks that it is signed by that public key. Returns the
    public key's 32 bytes. Raises UserError."""
    if is_private(key):
        private = ask_private_key(key)
        sign_bundle(archive, private)
        return public_bytes(private)
    public = read_public_key(key)
    check_signed_bundle(archive, [key])
    return public


def public_of(key: Path) -> bytes:
    """Returns the 32 bytes of a public key, or of the one that belongs to a private key. Raises UserError."""
    return public_bytes(ask_private_key(key)) if is_private(key) else read_public_key(key)


def is_private(key: Path) -> bool:
    return key.is_file() and b"PRIVATE KEY" in key.read_bytes()


def pin(board: Board, key: bytes, python: str) -> bool:
    """Pins a public key on a board; returns False if it was pinned before.

    Args:
        python: the board's, quoted for its shell.

    Raises UserError if another key is pinned there, or the board cannot check signatures.
    """
    program = Path(signed_bundle.__file__).read_bytes()
    script = PIN.format(trusted=TRUSTED, key=shlex.quote(as_pem(key)), python=python)
    return bool(board.run(script, program))


def as_pem(key: bytes) -> str:
    """Returns a public key of 32 bytes in PEM."""
    text = base64.b64encode(signed_bundle.PREFIX + key).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


def put_signature(board: Board, archive: Path, work: str) -> None:
    """Copies an archive's signature, if it has one, into the folder on the board in which its files are."""
    path = signed_bundle.signature_path(archive)
    if path.is_file():
        name = signed_bundle.SUMS + signed_bundle.SUFFIX
        board.run(PUT_SIGNATURE.format(work=work, name=name), path.read_bytes())
