"""Signs an engine, so that whoever has the public key can tell that it is this engine, unchanged.

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub
    effedge sign build/d0-digits/int8-cpu --key key.pem

The engine's files are compared with its manifest first, and the manifest is signed (Ed25519). Another build of the
engine needs another signature.
"""

from getpass import getpass
from pathlib import Path

from effedge.deploy.common.cli import Parser, run
from effedge.deploy.runtime.manifest import NAME, read_manifest
from effedge.deploy.runtime.signature import NeedsPassword, sign


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="an engine's folder")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="a private key, Ed25519 in PEM")
    arguments = parser.parse_args()
    manifest = (arguments.engine / NAME).read_bytes() if (arguments.engine / NAME).is_file() else b""
    read_manifest(arguments.engine)
    try:
        sign(arguments.engine, manifest, arguments.key)
    except NeedsPassword:
        sign(arguments.engine, manifest, arguments.key, getpass(f"password of {arguments.key}: ").encode())
    print(f"{arguments.engine}: signed")


if __name__ == "__main__":
    run(main)
