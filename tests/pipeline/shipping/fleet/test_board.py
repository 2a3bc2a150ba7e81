"""A roll-out to one board, without Ansible, over the stand-in for ssh."""

import json

import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.shipping.fleet.board import Row, Task, check, roll_back, roll_out
from effedge.pipeline.shipping.ssh import Board
from tests.deploy.keys import write_keys
from tests.pipeline.shipping.small_bundle import INSTALL, NAME, folder_of, pack

SLOWER = INSTALL + "sed -i 's/1.63/3.26/' latency.json\n"  # p50 of the engine, twice as long


def call(step, archive, *words, **task):
    row = Row()
    step(Board("me@board", name="gate-1"), Task(archive, **task), row, *words)
    return row


def test_a_roll_out_installs_and_a_second_finds_it_up_to_date(archive, board):
    row = call(roll_out, archive)
    assert (row["state"], row["changed"], row["ratio"]) == ("installed", True, None)
    assert row["latency_ms"]["engine"] == {"p50": 1.63, "p90": 1.7, "p99": 1.9}
    assert row["folder"] == str(archive.parent / f"{NAME}@gate-1")
    again = call(roll_out, archive)
    assert (again["state"], again["changed"]) == ("up to date", False)


def test_a_check_changes_nothing(archive, board):
    row = call(check, archive)
    assert row["state"] == "would install" and "the first of its name" in row["reason"]
    assert not (board / "effedge").exists()


def test_a_roll_back_goes_to_the_bundle_before_and_only_once(archive, board):
    call(roll_out, archive)
    first = folder_of(board, archive)
    pack(archive, SLOWER)
    assert call(roll_out, archive)["ratio"] == 2.0
    assert call(roll_back, archive, True)["state"] == "would roll back"
    assert call(roll_back, archive)["state"] == "rolled back"
    assert (board / "effedge" / NAME).resolve() == first
    assert call(roll_back, archive)["state"] == "does not serve it"
    assert (board / "effedge" / NAME).resolve() == first


def test_a_slower_engine_fails_and_the_board_goes_back(archive, board):
    call(roll_out, archive)
    first = folder_of(board, archive)
    pack(archive, SLOWER)
    with pytest.raises(UserError, match="2.00 times the baseline's, 1.05 may be; the earlier bundle serves again"):
        call(roll_out, archive, tolerance=5.0)
    assert (board / "effedge" / NAME).resolve() == first


def test_without_an_earlier_bundle_there_is_no_way_back(archive, board):
    call(roll_out, archive)
    with pytest.raises(UserError, match="no earlier bundle net-int8-jetson-orin is kept there"):
        call(roll_back, archive)


def test_a_board_in_another_power_mode_is_left_alone(archive, board):
    with pytest.raises(UserError, match="power mode is unknown, effedge_power_mode asks for MAXN"):
        call(roll_out, archive, power_mode="MAXN")
    assert not (board / "effedge").exists()


def test_the_row_of_an_earlier_roll_out_is_a_baseline(archive, board):
    earlier = json.loads(json.dumps(call(roll_out, archive)))
    earlier["latency_ms"]["engine"]["p50"] = 0.815
    assert call(roll_out, archive, baseline=earlier)["ratio"] == 2.0


def test_a_roll_out_pins_the_key_and_nothing_unsigned_comes_back(archive, board, tmp_path):
    call(roll_out, archive)
    first = folder_of(board, archive)
    private, public = write_keys(tmp_path, "ours")
    pack(archive)
    assert call(roll_out, archive, key=private)["state"] == "installed"
    assert (board / "effedge" / ".trusted" / "key.pub").read_bytes() == public.read_bytes()
    with pytest.raises(UserError, match=r"on 'me@board': .* is not signed"):
        call(roll_back, archive)
    assert first.is_dir() and (board / "effedge" / NAME).resolve() == folder_of(board, archive)
