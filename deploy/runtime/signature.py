"""Signs engines and bundles, and checks signatures: Ed25519 (RFC 8032) over an engine's manifest, which lists the
SHA-256 of every file that is loaded, or over a bundle's SHA256SUMS (signed_bundle.py).

The keys are PEM files, as OpenSSL makes them:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub

The package cryptography signs. To check a signature, OpenSSL's libcrypto is enough, which every board has. An engine's
signature is in `.signature.json` of its folder, and is no part of the engine: a folder is the same with and without it.
"""

import contextlib
import os
from getpass import getpass
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Optional, Tuple, Union

from effedge.deploy import signed_bundle
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_json, write_json

NAME = ".signature.json"
FORMAT = 1
PURPOSE = b"effedge engine manifest, format 1\n"  # in front of what is signed: no signature of anything else fits
TRUSTED_KEYS = "EFFEDGE_TRUSTED_KEYS"  # the environment variable: public keys, separated as PATH is
REMEDY = "sign the engine again, or copy the whole folder again"
EXPECTED = "expected an Ed25519 {} key in PEM, as `openssl genpkey -algorithm ed25519` makes them"
INSTALL = "install cryptography, on Debian and Ubuntu python3-cryptography"

Keys = Iterable[Union[str, Path]]  # files of public keys


def trusted_keys_of_user() -> Optional[List[str]]:
    """Returns the public keys of which the user asks for one's signature in the environment; None where he does not."""
    value = os.environ.get(TRUSTED_KEYS)
    return [path for path in value.split(os.pathsep) if path] if value else None


def sign(folder: Path, manifest: bytes, key: Any) -> None:
    """Writes the signature of a manifest, the content of manifest.json, into the engine's folder.

    `key`: of `read_private_key`. Raises UserError if the folder cannot be written.
    """
    write_signature(folder / NAME, PURPOSE + manifest, key)


def sign_bundle(bundle: Path, key: Any) -> None:
    """Writes the signature of a bundle, an archive or its folder, whose files are compared with its list first.

    `key`: of `read_private_key`. Raises UserError.
    """
    with explain_refusal():
        sums = signed_bundle.check_files(bundle)
    write_signature(signed_bundle.signature_path(bundle), signed_bundle.PURPOSE + sums, key)


def write_signature(path: Path, message: bytes, key: Any) -> None:
    write_json(path, {"format": FORMAT, "signature": key.sign(message).hex()})


def check_signed_bundle(bundle: Path, trusted_keys: Keys) -> Path:
    """Returns the trusted key that a bundle, an archive or its folder, is signed by. Raises UserError if there is none,
    or a file of the bundle has changed."""
    keys = read_public_keys(trusted_keys, bundle)
    with explain_refusal():
        signature, sums = signed_bundle.read_signature(bundle), signed_bundle.check_files(bundle)
    return signer(bundle, keys, signature, signed_bundle.PURPOSE + sums)


@contextlib.contextmanager
def explain_refusal() -> Iterator[None]:
    """Turns a Refused of signed_bundle.py into a UserError."""
    try:
        yield
    except signed_bundle.Refused as error:
        raise UserError(str(error)) from error


def check_signature(folder: Path, manifest: bytes, trusted_keys: Keys) -> Path:
    """Returns the trusted key that the manifest, the content of manifest.json, is signed by.

    Raises UserError if there is no signature by one of the keys, or a key cannot be read.
    """
    keys = read_public_keys(trusted_keys, folder)
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
    return signer(folder, keys, signature, PURPOSE + manifest)


def signer(signed: Path, keys: List[Tuple[Path, bytes]], signature: bytes, message: bytes) -> Path:
    """Returns the first of the keys that the signature of a message is by. Raises UserError if there is none."""
    for path, key in keys:
        if is_signed_by(key, signature, message):
            return path
    names = ", ".join(f"'{path}'" for path, _ in keys)
    raise UserError(f"'{signed}' is not signed by {names}, or was changed after it was signed: do not use it")


def is_signed_by(key: bytes, signature: bytes, message: bytes) -> bool:
    """Tells if a signature is by a public key, by libcrypto or, where a system has none, by cryptography."""
    try:
        return signed_bundle.is_signed(key, signature, message)
    except signed_bundle.NoLibrary as reason:
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise UserError(f"{reason}, nor the package cryptography: {INSTALL}") from error
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


class NeedsPassword(UserError):
    """The private key is encrypted."""


def read_public_keys(paths: Keys, checked: Path) -> List[Tuple[Path, bytes]]:
    """Reads public keys, which something is to be checked by. Raises UserError if one cannot be read, or there is
    none."""
    keys = [(Path(path), read_public_key(Path(path))) for path in paths]
    if not keys:
        raise UserError(f"no trusted key was given to check '{checked}' by: expected files of public keys")
    return keys


def read_public_key(path: Path) -> bytes:
    """Reads a public key. Raises UserError."""
    try:
        return signed_bundle.public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; {EXPECTED.format('public')}") from error
    except ValueError as error:
        raise UserError(f"'{path}' cannot be used ({error}): {EXPECTED.format('public')}") from error


def read_private_key(path: Path, password: Optional[bytes] = None) -> Any:
    """Reads a private key. Raises UserError if that fails, NeedsPassword for an encrypted key without its password."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise UserError(f"a signature cannot be computed here ({error}): {INSTALL}") from error
    try:
        data = path.read_bytes()
        if password is None and b"ENCRYPTED" in data:
            raise NeedsPassword(f"the key '{path}' is encrypted: give its password")
        key: Any = load_pem_private_key(data, password)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; {EXPECTED.format('private')}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"'{path}' cannot be used ({reason}): {EXPECTED.format('private')}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserError(f"'{path}' is a key of another algorithm: {EXPECTED.format('private')}")
    return key


def ask_private_key(path: Path) -> Any:
    """Reads a private key; asks for its password, if it is encrypted. Raises UserError."""
    try:
        return read_private_key(path)
    except NeedsPassword:
        return read_private_key(path, getpass(f"password of {path}: ").encode())


def public_bytes(key: Any) -> bytes:
    """Returns the 32 bytes of the public key of a private one."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    content: bytes = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return content
