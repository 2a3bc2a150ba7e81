"""Checks that a bundle is signed by a key, and that no file of it has changed since; an archive is not unpacked.

    python3 -I signed_bundle.py key.pub BUNDLE.tar.gz
    python3 -I signed_bundle.py key.pub FOLDER

The signature, Ed25519 (RFC 8032), is over the bundle's SHA256SUMS, which lists every file. It lies beside an archive as
BUNDLE.tar.gz.sig, and in a folder as SHA256SUMS.sig. A file that is not listed is refused, whichever effedge made the
list: anywhere in an archive, and in a folder where a bundle has its files. What an installation makes beside these
(engine/, latency.json, ...) is not covered and not looked at.

`effedge deploy --key` copies this file to the board, where it judges the bundles that come later: a bundle's own code
cannot vouch for the bundle. So the file needs nothing but Python's standard library and OpenSSL's libcrypto, which
Python's own ssl module is linked with. The program `openssl` would not do: its `pkeyutl` verifies Ed25519 from
OpenSSL 3.0 on (`-rawin`, openssl/openssl#8431), and JetPack 5 has 1.1.1, whose libcrypto can.
"""

import base64
import binascii
import ctypes
import hashlib
import json
import os
import re
import sys
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any, Dict, List, Tuple

SUMS, SUFFIX, FORMAT = "SHA256SUMS", ".sig", 1
# The folders and files in a bundle's folder that its code reads, whether this bundle has them or not.
PACKED = ("effedge", "model", "selftest", "proof", "install.sh", "bundle.json", "sbom.cdx.json")
PURPOSE = b"effedge bundle, format 1\n"  # in front of what is signed: no signature of anything else fits
LINE = re.compile(rb"([0-9a-f]{64})  ([^\n]+)\n")
# A public key of Ed25519 in DER is these bytes and the 32 of the key (RFC 8410, sections 4 and 10.1).
PREFIX, LENGTH = bytes.fromhex("302a300506032b6570032100"), 32
PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")
LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1")
EVP_PKEY_ED25519 = 1087  # <openssl/obj_mac.h>, NID_ED25519
CHUNK_BYTES = 1 << 20
MOST_SUMS_BYTES = 1 << 24


class Refused(Exception):
    """What is wrong with a bundle or a key, in one line."""


class NoLibrary(Refused):
    """Nothing here verifies Ed25519."""


def public_key(content: bytes) -> bytes:
    """Returns the 32 bytes of an Ed25519 public key, a PEM file's content. Raises ValueError if it is none."""
    found = PEM.search(content)
    try:
        der = base64.b64decode(b"".join(found.group(1).split()), validate=True) if found else b""
    except binascii.Error:
        der = b""
    if not der.startswith(PREFIX) or len(der) != len(PREFIX) + LENGTH:
        raise ValueError("no Ed25519 public key in PEM")
    return der[len(PREFIX) :]


def libcrypto() -> Any:
    """Loads OpenSSL 1.1.1 or later. Raises NoLibrary."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.EVP_PKEY_new_raw_public_key.restype = ctypes.c_void_p
        except (OSError, AttributeError):  # missing, or OpenSSL 1.1.0, which has no Ed25519
            continue
        library.EVP_MD_CTX_new.restype = ctypes.c_void_p
        return library
    raise NoLibrary(f"a signature cannot be verified here: there is neither {' nor '.join(LIBRARIES)} (libssl)")


def is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Tells if the Ed25519 signature of a message is by a public key, of 32 bytes. Raises NoLibrary."""
    library = libcrypto()
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    opened = library.EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, None, key, size(len(key)))
    context = library.EVP_MD_CTX_new()
    try:
        if not opened or not context:
            return False
        if library.EVP_DigestVerifyInit(pointer(context), None, None, None, pointer(opened)) != 1:
            return False
        verified = library.EVP_DigestVerify(
            pointer(context), signature, size(len(signature)), message, size(len(message))
        )
        return int(verified) == 1  # 0 or negative otherwise
    finally:
        library.EVP_MD_CTX_free(pointer(context))
        library.EVP_PKEY_free(pointer(opened))


def signature_path(bundle: Path) -> Path:
    """Returns the path of a bundle's signature."""
    return bundle / (SUMS + SUFFIX) if bundle.is_dir() else bundle.with_name(bundle.name + SUFFIX)


def read_signature(bundle: Path) -> bytes:
    """Reads a bundle's signature. Raises Refused if it is missing or damaged."""
    path = signature_path(bundle)
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError("it is of another format")
        return bytes.fromhex(content["signature"])
    except FileNotFoundError:
        raise Refused(f"'{bundle}' is not signed ({path.name} is missing): `effedge sign` signs bundles") from None
    except OSError as error:
        raise Refused(f"cannot read '{path}': {error.strerror}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"'{path}' is damaged ({str(error)[:80]}): sign the bundle again") from error


def digest_of(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
        digest.update(chunk)
    return digest.hexdigest()


def read_sums(content: bytes, bundle: Path) -> Dict[str, str]:
    """Returns the SHA-256 of each file by the content of SHA256SUMS. Raises Refused if it is damaged."""
    rows = LINE.findall(content)
    if not rows or sum(len(digest) + len(name) + 3 for digest, name in rows) != len(content):
        raise Refused(f"'{bundle}' has a damaged {SUMS}: pack or copy the bundle again")
    return {os.fsdecode(name): digest.decode() for digest, name in rows}


def read_folder(folder: Path) -> Tuple[bytes, Dict[str, str]]:
    """Returns the content of a bundle's SHA256SUMS, and the SHA-256 of each file that it lists and that is a file in
    the folder. Raises Refused."""
    root = os.path.realpath(str(folder))
    try:
        sums = (folder / SUMS).read_bytes()
        digests = {}
        for name in read_sums(sums, folder):
            path = os.path.join(root, name)
            if os.path.realpath(path) == path and os.path.isfile(path):  # no link
                with open(path, "rb") as file:
                    digests[name] = digest_of(file)
    except OSError as error:
        raise Refused(f"cannot read '{error.filename}' ({error.strerror}): expected a bundle's folder") from error
    return sums, digests


def read_archive(archive: Path) -> Tuple[bytes, Dict[str, str]]:
    """Returns the content of the SHA256SUMS in an archive, and the SHA-256 of each other file in it. Raises Refused."""
    digests: Dict[str, str] = {}
    sums = b""
    try:
        with tarfile.open(str(archive), "r:gz") as files:
            for member in files:
                name = member.name.partition("/")[2]
                file = files.extractfile(member) if member.isreg() else None
                if not name or file is None or name in digests or (name == SUMS and sums):
                    raise Refused(f"'{archive}' has an entry that is no file of a bundle ({member.name[:80]!r})")
                if name == SUMS:
                    sums = file.read(MOST_SUMS_BYTES)
                else:
                    digests[name] = digest_of(file)
    except OSError as error:
        reason = error.strerror or error
        raise Refused(f"cannot read '{archive}' ({reason}): expected a bundle, a .tar.gz or its folder") from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise Refused(f"cannot read '{archive}' ({error}): expected a bundle, a .tar.gz or its folder") from error
    return sums, digests


def unlisted(folder: Path, listed: Dict[str, str]) -> List[str]:
    """Returns the names of the files in a bundle's folders that are not listed, and of links to folders there. Raises
    Refused."""
    root = os.path.realpath(str(folder))
    found: List[str] = []
    try:
        for top in {*PACKED, *(name.partition("/")[0] for name in listed)}:
            path = os.path.join(root, top)
            if not os.path.isdir(path) or os.path.islink(path):
                found += [path] if os.path.lexists(path) else []
                continue
            for parent, folders, files in os.walk(path, onerror=give):
                inside = [os.path.join(parent, name) for name in folders + files]
                found += [name for name in inside if os.path.islink(name) or not os.path.isdir(name)]
    except OSError as error:
        raise Refused(f"cannot read '{error.filename}' ({error.strerror}): expected a bundle's folder") from error
    return sorted({os.path.relpath(path, root).replace(os.sep, "/") for path in found}.difference(listed))


def give(error: OSError) -> None:
    raise error


def check_files(bundle: Path) -> bytes:
    """Returns the content of a bundle's SHA256SUMS, if each file is as it says, and there is no other. Raises
    Refused."""
    sums, digests = read_folder(bundle) if bundle.is_dir() else read_archive(bundle)
    listed = read_sums(sums, bundle)
    for name in sorted({*listed, *digests}):
        if listed.get(name) != digests.get(name):
            raise Refused(f"'{name}' in '{bundle}' is not the file that was packed: pack or copy the bundle again")
    for name in unlisted(bundle, listed) if bundle.is_dir() else ():
        raise Refused(
            f"'{name}' in '{bundle}' is none of the bundle's files, so no signature covers it: remove it (and all of "
            "a __pycache__), or unpack the bundle into a new folder"
        )
    return sums


def check_bundle(bundle: Path, key: bytes, shown: str) -> None:
    """Raises Refused unless a bundle is signed by a public key of 32 bytes, and each of its files is as it was.

    Args:
        shown: the key, as it is to be named.
    """
    signature = read_signature(bundle)
    sums = check_files(bundle)
    if not is_signed(key, signature, PURPOSE + sums):
        raise Refused(f"'{bundle}' is not signed by {shown}, or was changed after it was signed: do not use it")


def main(words: List[str]) -> int:
    """Checks the bundle that the second word names by the key of the first; without a second, that a check is possible
    here."""
    try:
        key = public_key(Path(words[0]).read_bytes())
        libcrypto()
        if words[1:]:
            check_bundle(Path(words[1]), key, f"'{words[0]}'")
    except (OSError, ValueError, Refused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
