"""A fleet on the loopback, with boards that fail, are slow, or cannot be reached; and mistakes on the host."""

import importlib.util
import json
import os

import pytest

from effedge.pipeline.shipping.fleet import command
from effedge.pipeline.shipping.fleet.command import read_serial, sign_all
from tests.deploy.keys import write_keys
from tests.pipeline.shipping.fleet.loopback import Loopback
from tests.pipeline.shipping.small_bundle import NAME, pack

needs_ansible = pytest.mark.skipif(importlib.util.find_spec("ansible_runner") is None, reason="the extra 'fleet'")


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    (tmp_path / "boards").mkdir()
    boards = Loopback(tmp_path / "boards")
    yield boards
    boards.close()


@pytest.mark.slow
@needs_ansible
def test_where_the_new_bundle_fails_the_earlier_serves(loopback, archive, call_main, tmp_path):
    *good, failing, slow = [loopback.start(name) for name in ("good-1", "good-2", "good-3", "failing", "slow")]
    loopback.start("off", is_reachable=False)
    inventory, result = loopback.inventory(), tmp_path / "result.json"

    def states(*words):
        status, out, err = call_main(
            command.main, inventory, "--bundle", archive, "--json", result, "--serial", "100%", *words
        )
        return status, {row["board"]: row["state"] for row in json.loads(result.read_text())["boards"]}, out + err

    status, found, said = states("--max-fail", "100")
    assert status == 1 and found == {**dict.fromkeys(["good-1", "good-2", "good-3", "failing", "slow"], "installed"),
                                     "off": "unreachable"}, said  # fmt: skip
    first = {board.name: board.serves for board in (*good, failing, slow)}
    pack(archive)
    (failing.home / "refuse").touch()
    (slow.home / "wait").touch()
    inventory = loopback.inventory(slow={"effedge_timeout": 30})
    status, found, said = states("--max-fail", "100")
    assert status == 1 and found == {**dict.fromkeys(["good-1", "good-2", "good-3"], "installed"), "failing": "failed",
                                     "slow": "timed out", "off": "unreachable"}, said  # fmt: skip
    assert (failing.serves, slow.serves) == (first["failing"], first["slow"])
    assert all(board.serves != first[board.name] for board in good)
    status, found, said = states("--rollback", "--limit", "good-*")
    assert status == 0 and set(found.values()) == {"rolled back"}, said
    assert all(board.serves == first[board.name] for board in good)
    assert os.listdir(tmp_path / "user") == [] and not (good[0].home / ".ansible").exists()


@needs_ansible
def test_a_batch_that_fails_stops_the_roll_out(loopback, archive, call_main, tmp_path):
    first, second = loopback.start("first"), loopback.start("second")
    (first.home / "refuse").touch()
    words = (loopback.inventory(), "--bundle", archive, "--json", tmp_path / "result.json")
    status, out, _ = call_main(command.main, *words)
    assert status == 1 and "1 failed, 1 not started; it stopped after a batch" in out
    assert not (second.home / "effedge").exists() and first.serves == ""
    assert "this bundle is for jetson-orin, and this board is another" in out


@needs_ansible
def test_a_key_signs_once_and_is_pinned_on_every_board(loopback, archive, call_main, tmp_path):
    boards = [loopback.start(name) for name in ("first", "second")]
    words = (loopback.inventory(), "--bundle", archive, "--json", tmp_path / "result.json", "--serial", "100%")
    private, public = write_keys(tmp_path, "ours")
    status, out, err = call_main(command.main, *words, "--key", private)
    assert status == 0 and "2 installed" in out, out + err
    pinned = [board.home / "effedge" / ".trusted" / "key.pub" for board in boards]
    assert [path.read_bytes() for path in pinned] == [public.read_bytes()] * 2
    first = [board.serves for board in boards]
    pack(archive)
    archive.with_name(f"{archive.name}.sig").unlink()
    status, out, _ = call_main(command.main, *words)
    assert status == 1 and "2 failed" in out and "is not signed" in out
    assert [board.serves for board in boards] == first
    files = [path for board in boards for path in board.home.rglob("*") if path.is_file()]
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in files)


@needs_ansible
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no inventory '"),
        ("all:\n  hosts:\n  - a\n b: [\n", "cannot be read: "),
        ("hello world\n", "cannot be read: YAML inventory has invalid structure"),
        ("", "has no boards: expected an Ansible inventory"),
    ],
)
def test_an_inventory_that_is_none_is_one_line(call_main, archive, tmp_path, content, expected):
    path = tmp_path / "inventory.yml"
    if content is not None:
        path.write_text(content)
    status, _, err = call_main(command.main, path, "--bundle", archive, "--json", tmp_path / "result.json")
    assert status == 2 and err.count("\n") == 1 and expected in err


@needs_ansible
def test_a_bundle_that_is_missing_is_one_line(call_main, tmp_path):
    path = tmp_path / "inventory.yml"
    path.write_text("all:\n  hosts:\n    gate-1:\n")
    words = (path, "--json", tmp_path / "result.json")
    assert call_main(command.main, *words)[2].startswith("error: 'gate-1' has no bundle: give --bundle")
    status, _, err = call_main(command.main, *words, "--bundle", tmp_path / f"{NAME}.tar.gz")
    assert status == 2 and err.startswith("error: no bundle at '")


def test_without_ansible_the_extra_is_named(call_main, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = call_main(command.main, "inventory.yml")
    assert (status, err) == (2, "error: effedge fleet needs the package ansible: pip install 'effedge[fleet]'\n")


def test_a_bundle_that_ansible_names_is_signed_beforehand(archive, tmp_path):
    private, public = write_keys(tmp_path, "ours")
    named_there = archive.with_name("{{ inventory_hostname }}.tar.gz")
    for bundles in ([named_there], [archive, named_there]):
        assert sign_all(bundles, private, tmp_path).read_bytes() == public.read_bytes()
    assert archive.with_name(f"{archive.name}.sig").is_file() and sign_all([named_there], public, tmp_path).is_file()


def test_batches_are_numbers_and_shares():
    assert read_serial("1, 5,25%") == ["1", "5", "25%"]
    for text in ("0", "101%", "", "1,,2", "a"):
        with pytest.raises(Exception, match="expected numbers of boards or per cent"):
            read_serial(text)
