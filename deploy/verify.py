"""Checks that an engine is signed by a trusted key, and that no file of it has changed since.

    effedge verify build/d0-digits/int8-cpu --key key.pub

Where the environment variable EFFEDGE_TRUSTED_KEYS names public keys, separated by colons, every command and
effedge.Detector load only engines that one of them has signed; Detector(folder, trusted_keys=["key.pub"]) does so for
one engine.
"""

from pathlib import Path

from effedge.deploy.common.cli import Parser, run
from effedge.deploy.runtime.manifest import NAME, read_manifest
from effedge.deploy.runtime.signature import check_signature


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="an engine's folder")
    key = "public keys, Ed25519 in PEM; one of them must have signed it"
    parser.add_argument("--key", type=Path, required=True, nargs="+", metavar="FILE", help=key)
    arguments = parser.parse_args()
    read_manifest(arguments.engine, arguments.key)
    signed_by = check_signature(arguments.engine, (arguments.engine / NAME).read_bytes(), arguments.key)
    print(f"{arguments.engine}: signed by {signed_by}, and unchanged")


if __name__ == "__main__":
    run(main)
