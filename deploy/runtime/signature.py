"""Signs engines, and checks signatures: Ed25519 (RFC 8032) over an engine's manifest, which lists the SHA-256 of every
file that is loaded.

The keys are PEM files, as OpenSSL makes them:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub

The package cryptography computes; it is imported only where a key is given. The signature is in `.signature.json` of
the engine's folder, and is no part of the engine: a folder is the same with and without it.
"""

import os
from pathlib import Path
from typing import Any, Iterable, List, Optional, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_json, write_json

NAME = ".signature.json"
FORMAT = 1
PURPOSE = b"effedge engine manifest, format 1\n"  # in front of what is signed: no signature of anything else fits
TRUSTED_KEYS = "EFFEDGE_TRUSTED_KEYS"  # the environment variable: public keys, separated as PATH is
REMEDY = "sign the engine again, or copy the whole folder again"

Keys = Iterable[Union[str, Path]]  # files of public keys


def trusted_keys_of_user() -> Optional[List[str]]:
    """Returns the public keys of which the user asks for one's signature in the environment; None where he does not."""
    value = os.environ.get(TRUSTED_KEYS)
    return [path for path in value.split(os.pathsep) if path] if value else None


def sign(folder: Path, manifest: bytes, private_key: Path, password: Optional[bytes] = None) -> None:
    """Writes the signature of a manifest, the content of manifest.json, into the engine's folder.

    Raises UserError if the key cannot be read or the folder cannot be written, and NeedsPassword for an encrypted key
    without its password.
    """
    key = read_key(private_key, "private", password)
    signature = key.sign(PURPOSE + manifest)
    write_json(folder / NAME, {"format": FORMAT, "signature": signature.hex()})


def check_signature(folder: Path, manifest: bytes, trusted_keys: Keys) -> Path:
    """Returns the trusted key that the manifest, the content of manifest.json, is signed by.

    Raises UserError if there is no signature by one of the keys, or a key cannot be read.
    """
    keys = [(Path(path), read_key(Path(path), "public")) for path in trusted_keys]
    if not keys:
        raise UserError(f"no trusted key was given to check '{folder}' by: expected files of public keys")
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"'{folder}' is not signed ({NAME} is missing): expected an engine that `effedge sign` signed")
    content = read_json(path, REMEDY)
    try:
        signature = bytes.fromhex(content["signature"])
        if content["format"] != FORMAT:
            raise ValueError("it is of another format")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({error}): {REMEDY}") from error
    for key_path, key in keys:
        if is_signed_by(key, signature, PURPOSE + manifest):
            return key_path
    names = ", ".join(f"'{key_path}'" for key_path, _ in keys)
    raise UserError(f"'{folder}' is not signed by {names}, or was changed after it was signed: do not use it")


def is_signed_by(key: Any, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


class NeedsPassword(UserError):
    """The private key is encrypted."""


def read_key(path: Path, kind: str, password: Optional[bytes] = None) -> Any:
    """Reads a "private" or "public" key. Raises UserError if that fails, NeedsPassword for an encrypted private key
    without its password."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
    except ImportError as error:
        raise UserError(
            f"a signature cannot be computed here ({error}): install cryptography, on Debian and Ubuntu "
            "python3-cryptography"
        ) from error
    expected = f"expected an Ed25519 {kind} key in PEM, as `openssl genpkey -algorithm ed25519` makes them"
    try:
        data = path.read_bytes()
        if kind == "public":
            key: Any = load_pem_public_key(data)
        else:
            if password is None and b"ENCRYPTED" in data:
                raise NeedsPassword(f"the key '{path}' is encrypted: give its password")
            key = load_pem_private_key(data, password)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; {expected}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"'{path}' cannot be used ({reason}): {expected}") from error
    if not isinstance(key, (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey)):
        raise UserError(f"'{path}' is a key of another algorithm: {expected}")
    return key
