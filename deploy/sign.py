"""Signs an engine or a bundle, so that whoever has the public key can tell that it is this one, unchanged.

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub
    effedge sign build/d0-digits/int8-cpu --key key.pem
    effedge sign build/d0-digits/d0-digits-int8-jetson-orin.tar.gz --key key.pem

The files are compared with the engine's manifest or the bundle's SHA256SUMS first, and that list is signed (Ed25519).
Another build of the engine needs another signature. A bundle is an archive, whose signature is written beside it
(BUNDLE.tar.gz.sig), or the folder that was unpacked from it (SHA256SUMS.sig in it).
"""

from pathlib import Path

from effedge.deploy.common.cli import Parser, run
from effedge.deploy.runtime.manifest import NAME, read_manifest
from effedge.deploy.runtime.signature import ask_private_key, sign, sign_bundle
from effedge.deploy.signed_bundle import SUMS


def is_bundle(path: Path) -> bool:
    """Tells a bundle, an archive or its folder, from an engine's folder."""
    return path.is_file() or (path / SUMS).is_file()


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("signed", type=Path, metavar="ENGINE_OR_BUNDLE", help="a folder, or a bundle's archive")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="a private key, Ed25519 in PEM")
    arguments = parser.parse_args()
    if is_bundle(arguments.signed):
        sign_bundle(arguments.signed, ask_private_key(arguments.key))
    else:
        manifest = (arguments.signed / NAME).read_bytes() if (arguments.signed / NAME).is_file() else b""
        read_manifest(arguments.signed)
        sign(arguments.signed, manifest, ask_private_key(arguments.key))
    print(f"{arguments.signed}: signed")


if __name__ == "__main__":
    run(main)
