"""An engine is loaded with a trusted key only if that key signed it, and nothing of it has changed since."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from effedge import Detector, Runner, UserError
from effedge.deploy import sign as sign_command
from effedge.deploy import signed_bundle
from effedge.deploy import verify as verify_command
from effedge.deploy.common.files import sha256_of_path
from effedge.deploy.runtime import signature
from effedge.deploy.runtime.signature import NAME, TRUSTED_KEYS, check_signature
from tests.deploy.keys import write_keys

pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
IMAGE = np.zeros((40, 50, 3), np.uint8)


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path, "ours")


@pytest.fixture
def signed(build, keys, call_main):
    folder = build()
    before = sha256_of_path(folder)
    assert call_main(sign_command.main, folder, "--key", keys[0]) == (0, f"{folder}: signed\n", "")
    assert sha256_of_path(folder) == before  # the engine is the same: no stage of the chain is done again
    return folder


def test_a_signed_engine_is_loaded_and_verified(signed, keys, call_main, tmp_path):
    assert len(Detector(signed, trusted_keys=[keys[1]])(IMAGE)) == 0
    status, out, _ = call_main(verify_command.main, signed, "--key", keys[1])
    assert (status, out) == (0, f"{signed}: signed by {keys[1]}, and unchanged\n")
    others = write_keys(tmp_path, "theirs")
    manifest = (signed / "manifest.json").read_bytes()
    assert check_signature(signed, manifest, [others[1], keys[1]]) == keys[1]


@pytest.mark.parametrize("name", ["manifest.json", "engine.xml", "engine.bin", NAME])
def test_a_changed_byte_is_refused(signed, keys, call_main, name):
    path = signed / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError):
        Detector(signed, trusted_keys=[keys[1]])
    status, out, error = call_main(verify_command.main, signed, "--key", keys[1])
    assert (status, out, error.count("\n")) == (2, "", 1)


def test_a_changed_engine_whose_manifest_was_made_to_fit_is_refused(signed, keys, edit):
    edit(signed, lambda manifest: manifest["spec"].update(labels=["a", "b", "c"]))
    Detector(signed)
    with pytest.raises(UserError, match=r"is not signed by .*ours\.pub', or was changed"):
        Detector(signed, trusted_keys=[keys[1]])


def test_another_key_no_signature_and_no_key_are_refused(signed, keys, tmp_path):
    _, others = write_keys(tmp_path, "theirs")
    with pytest.raises(UserError, match=r"is not signed by .*theirs\.pub"):
        Runner(signed, trusted_keys=[others])
    with pytest.raises(UserError, match="no trusted key was given"):
        Detector(signed, trusted_keys=[])
    (signed / NAME).unlink()
    with pytest.raises(UserError, match="is not signed .*effedge sign"):
        Detector(signed, trusted_keys=[keys[1]])


def test_the_environment_asks_for_a_signature(build, signed, keys, monkeypatch):
    unsigned = build(name="unsigned")
    monkeypatch.setenv(TRUSTED_KEYS, f"{keys[1]}{os.pathsep}")
    Detector(signed)
    with pytest.raises(UserError, match="is not signed"):
        Detector(unsigned)
    monkeypatch.setenv(TRUSTED_KEYS, "")
    Detector(unsigned)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b'{"format": 1}', b'{"format": 2, "signature": "00"}', b"[" * 100_000,
        b'{"format": 1, "signature": "xy"}', b'{"format": 1, "signature": 3}', b'{"format": 1, "signature": ""}',
    ],
)  # fmt: skip
def test_a_damaged_signature_is_one_line(signed, keys, content):
    (signed / NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged|is not signed") as error:
        Detector(signed, trusted_keys=[keys[1]])
    assert "\n" not in str(error.value)


def test_a_signature_of_something_else_does_not_fit(signed, keys):
    """The manifest is signed behind a text that says what it is."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(keys[0].read_bytes(), None)
    bare = key.sign((signed / "manifest.json").read_bytes())
    (signed / NAME).write_text(json.dumps({"format": 1, "signature": bare.hex()}))
    with pytest.raises(UserError, match="is not signed"):
        Detector(signed, trusted_keys=[keys[1]])


def test_a_damaged_engine_is_not_signed(build, keys, call_main):
    folder = build()
    (folder / "engine.bin").write_bytes(b"changed")
    status, _, error = call_main(sign_command.main, folder, "--key", keys[0])
    assert status == 2 and "is not the file that was built" in error and not (folder / NAME).exists()


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_one_line(signed, keys, call_main, tmp_path, content):
    path = tmp_path / "bad"
    path.write_bytes(content)
    for main in (sign_command.main, verify_command.main):
        status, _, error = call_main(main, signed, "--key", path)
        assert status == 2 and error.count("\n") == 1 and "expected an Ed25519" in error
        status, _, error = call_main(main, signed, "--key", tmp_path / "nowhere")
        assert status == 2 and "cannot read" in error
    status, _, error = call_main(verify_command.main, signed, "--key", keys[0])  # the private one
    assert status == 2 and "expected an Ed25519 public key" in error


def test_an_encrypted_key_needs_its_password(build, tmp_path, call_main, monkeypatch):
    private, public = write_keys(tmp_path, "encrypted", b"secret")
    folder = build()
    monkeypatch.setattr(signature, "getpass", lambda prompt: "wrong")
    status, _, error = call_main(sign_command.main, folder, "--key", private)
    assert status == 2 and error.count("\n") == 1 and "cannot be used" in error
    monkeypatch.setattr(signature, "getpass", lambda prompt: "secret")
    assert call_main(sign_command.main, folder, "--key", private)[0] == 0
    Detector(folder, trusted_keys=[public])


@pytest.mark.parametrize("verifier", ["libcrypto", "cryptography"])
def test_either_of_the_libraries_is_enough_to_check_a_signature(signed, keys, verifier, monkeypatch):
    if verifier == "libcrypto":
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    else:
        monkeypatch.setattr(signed_bundle, "LIBRARIES", ["libnone.so"])
    Detector(signed, trusted_keys=[keys[1]])
    (signed / NAME).write_text(json.dumps({"format": 1, "signature": "00" * 64}))
    with pytest.raises(UserError, match="is not signed by"):
        Detector(signed, trusted_keys=[keys[1]])


def test_without_both_an_engine_is_loaded_and_a_key_is_refused(signed, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    monkeypatch.setattr(signed_bundle, "LIBRARIES", ["libnone.so"])
    Detector(signed)
    with pytest.raises(UserError, match="install cryptography"):
        Detector(signed, trusted_keys=[keys[1]])


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
        ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ],
)  # fmt: skip
def test_signatures_of_rfc_8032_are_verified(public, message, signature):
    """Section 7.1, tests 1 and 2."""
    key, data, good = map(bytes.fromhex, (public, message, signature))
    assert signed_bundle.is_signed(key, good, data)
    assert not signed_bundle.is_signed(key, good, data + b"x")
    assert not signed_bundle.is_signed(key, good[:-1], data)
    assert not signed_bundle.is_signed(key[::-1], good, data)


def test_openssls_keys_are_taken(build, tmp_path, call_main):
    """The commands of the documentation."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    try:
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)], check=True)
    except FileNotFoundError:
        pytest.skip("no openssl")
    subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)
    folder = build()
    assert call_main(sign_command.main, folder, "--key", private)[0] == 0
    assert call_main(verify_command.main, folder, "--key", public)[0] == 0
