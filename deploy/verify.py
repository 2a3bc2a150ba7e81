"""Checks that an engine or a bundle is signed by a trusted key, and that no file of it has changed since.

    effedge verify build/d0-digits/int8-cpu --key key.pub
    effedge verify build/d0-digits/d0-digits-int8-jetson-orin.tar.gz --key key.pub

Where the environment variable EFFEDGE_TRUSTED_KEYS names public keys, separated by colons, every command and
effedge.Detector load only engines that one of them has signed; Detector(folder, trusted_keys=["key.pub"]) does so for
one engine. A board takes only signed bundles after `effedge deploy --key`.
"""

from pathlib import Path

from effedge.deploy.common.cli import Parser, run
from effedge.deploy.runtime.manifest import NAME, read_manifest
from effedge.deploy.runtime.signature import check_signature, check_signed_bundle
from effedge.deploy.sign import is_bundle


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("signed", type=Path, metavar="ENGINE_OR_BUNDLE", help="a folder, or a bundle's archive")
    key = "public keys, Ed25519 in PEM; one of them must have signed it"
    parser.add_argument("--key", type=Path, required=True, nargs="+", metavar="FILE", help=key)
    arguments = parser.parse_args()
    signed = arguments.signed
    if is_bundle(signed):
        signed_by = check_signed_bundle(signed, arguments.key)
    else:
        read_manifest(signed, arguments.key)
        signed_by = check_signature(signed, (signed / NAME).read_bytes(), arguments.key)
    print(f"{signed}: signed by {signed_by}, and unchanged")


if __name__ == "__main__":
    run(main)
