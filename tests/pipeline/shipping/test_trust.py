"""A board on which a key is pinned takes only bundles that the key has signed; its ssh runs everything here."""

import json
import shutil

import pytest

from effedge.deploy import sign, verify
from effedge.deploy.common.cli import UserError
from effedge.pipeline.shipping.push import deploy
from effedge.pipeline.shipping.ssh import Board
from tests.deploy.keys import write_keys
from tests.pipeline.shipping.small_bundle import NAME, folder_of, pack


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path, "ours")


def ship(archive, key=None):
    return deploy(archive, Board("me@board"), key=key)


def installed(board):
    """The folder that serves on the board, and how many installations ran in it."""
    folder = (board / "effedge" / NAME).resolve()
    return folder, (folder / "runs").read_text().count("begun")


def test_a_private_key_signs_the_bundle_and_is_pinned(board, archive, keys, call_main):
    ship(archive, keys[0])
    trusted = board / "effedge" / ".trusted"
    assert (trusted / "key.pub").read_bytes() == keys[1].read_bytes() and trusted.stat().st_mode & 0o77 == 0
    assert call_main(verify.main, archive, "--key", keys[1])[0] == 0
    assert call_main(verify.main, folder_of(board, archive), "--key", keys[1])[0] == 0
    ship(archive)  # the signature goes with it


def test_an_unsigned_bundle_is_refused_before_any_code_of_it_runs(board, archive, keys):
    ship(archive, keys[0])
    before = installed(board)
    pack(archive)  # another, with the signature of the first beside it
    with pytest.raises(UserError, match=r"on 'me@board': .* is not signed by .*key\.pub"):
        ship(archive)
    pack(archive)
    archive.with_name(f"{archive.name}.sig").unlink()
    with pytest.raises(UserError, match="is not signed .SHA256SUMS.sig is missing"):
        ship(archive)
    assert installed(board) == before and not (folder_of(board, archive) / "runs").exists()


@pytest.mark.parametrize("name", ["install.sh", "model/model.onnx", "SHA256SUMS", "SHA256SUMS.sig"])
def test_a_changed_byte_on_the_board_is_refused(board, archive, keys, name):
    ship(archive, keys[0])
    before = installed(board)
    path = before[0] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    archive.with_name(f"{archive.name}.sig").unlink()  # which would be copied there again
    with pytest.raises(UserError, match="on 'me@board': "):
        ship(archive)
    assert installed(board) == before


def test_a_link_in_place_of_a_file_is_refused(board, archive, keys, tmp_path):
    ship(archive, keys[0])
    model = installed(board)[0] / "model/model.onnx"
    shutil.move(model, tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="'model/model.onnx' in .* is not the file that was packed"):
        ship(archive)


def test_another_key_is_refused_and_the_first_stays(board, archive, keys, tmp_path):
    ship(archive, keys[0])
    pinned = (board / "effedge" / ".trusted" / "key.pub").read_bytes()
    with pytest.raises(UserError, match="another key is pinned there"):
        ship(archive, write_keys(tmp_path, "theirs")[0])
    assert (board / "effedge" / ".trusted" / "key.pub").read_bytes() == pinned


def test_a_bundle_that_a_public_key_did_not_sign_is_refused_here(board, archive, keys, tmp_path, call_main):
    with pytest.raises(UserError, match="is not signed"):
        ship(archive, keys[1])
    call_main(sign.main, archive, "--key", keys[0])
    with pytest.raises(UserError, match="is not signed by .*theirs"):
        ship(archive, write_keys(tmp_path, "theirs")[1])
    assert not (board / "effedge").exists()
    ship(archive, keys[1])
    assert (board / "effedge" / ".trusted").is_dir()


def test_a_board_that_cannot_check_signatures_pins_nothing(board, archive, keys, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'error: a signature cannot be verified here' >&2; exit 2\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="a signature cannot be verified here"):
        deploy(archive, Board("me@board"), str(python), key=keys[0])
    assert not list((board / "effedge").iterdir())


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_signature(path):
    signature = path.with_name(f"{path.name}.sig")
    signature.write_text(json.dumps({"format": 1, "signature": "00" * 64}))


def no_archive(path):
    path.write_bytes(b"[]")


@pytest.mark.parametrize("damage", [change, cut, other_signature, no_archive, pack])
def test_a_changed_archive_is_one_line(archive, keys, call_main, damage):
    assert call_main(sign.main, archive, "--key", keys[0]) == (0, f"{archive}: signed\n", "")
    assert call_main(verify.main, archive, "--key", keys[1])[0] == 0
    damage(archive)
    status, out, error = call_main(verify.main, archive, "--key", keys[1])
    assert (status, out, error.count("\n")) == (2, "", 1), error


def test_a_damaged_bundle_is_not_signed(archive, keys, call_main):
    change(archive)
    status, _, error = call_main(sign.main, archive, "--key", keys[0])
    assert status == 2 and error.count("\n") == 1 and not archive.with_name(f"{archive.name}.sig").exists()
