"""Checks the notes that two readings of a board give about the latencies between them."""

import copy

import pytest

from effedge.deploy.timing.board import board
from effedge.deploy.timing.board_notes import board_lines, differences, disturbances
from tests.deploy.boards import BOARDS, write_board


@pytest.fixture
def facts(tmp_path):
    return lambda name: board(write_board(tmp_path / name, BOARDS[name]))


def test_a_board_is_a_line_of_the_table(facts):
    [line] = board_lines(facts("nano"), facts("nano"))
    assert line == (
        "power mode MAXN (0), Jetson Linux R32.7.1; CPU at 1479 MHz of 1479 to 1479, schedutil; "
        "57000000.gpu at 922 MHz of 922 to 922; hottest 42 to 42 degrees (AO-therm)"
    )


def test_nothing_known_nothing_said(tmp_path):
    assert board_lines(board(tmp_path), board(tmp_path)) == []


def test_throttling_between_two_readings_is_seen(facts):
    before = facts("xavier")
    before["throttle_counts"] = {"under voltage (oc1)": 4, "average over-current (oc2)": 1}
    after = copy.deepcopy(before)
    assert disturbances(before, after) == []
    after["throttle_counts"]["under voltage (oc1)"] = 31
    after["throttled_by"] = ["cpu-throttle-alert"]
    after["gpus"][0]["throttled_by"] = ["power cap"]
    after["power_mode"] = {"id": 0, "name": "MAXN"}
    assert disturbances(before, after) == [
        "under voltage (oc1): 27 times",
        "cpu-throttle-alert at its end",
        "GPU 0 power cap at its end",
        "power mode went from MODE_15W (2) to MAXN (0)",
    ]
    assert board_lines(before, after)[1].startswith("NOT UNDISTURBED, these figures may be too slow: under voltage")


def test_what_throttled_before_it_began_is_said_too(facts):
    assert "gpu-throttle-alert at its start" in disturbances(facts("orin"), facts("orin"))


def test_a_baseline_of_other_settings(facts):
    recorded = facts("orin")
    now = copy.deepcopy(recorded)
    assert differences(recorded, now) == differences(None, now) == differences({}, now) == []
    now["power_mode"] = {"id": 0, "name": "15W"}
    now["cpu"].update(governor="performance", limits_mhz=[1510, 1510])
    now["gpus"][0].update(mhz=612, limits_mhz=[306, 612])
    assert differences(recorded, now) == [
        "power mode was MAXN_SUPER (2) when the baseline was recorded, now it is 15W (0)",
        "CPU governor was schedutil when the baseline was recorded, now it is performance",
        "CPU clock limits (MHz) was 730 to 1728 when the baseline was recorded, now it is 1510 to 1510",
        "GPU 0 clock limits (MHz) was 306 to 1020 when the baseline was recorded, now it is 306 to 612",
        "GPU 0 ran at 1020 MHz when the baseline was recorded, now at 612",
    ]


def test_a_clock_that_is_nearly_the_same_is_the_same_and_the_unknown_is_no_difference(facts, tmp_path):
    recorded = facts("orin")
    now = copy.deepcopy(recorded)
    now["gpus"][0]["mhz"] = 1005
    assert differences(recorded, now) == []
    assert differences(recorded, board(tmp_path)) == []


def test_damaged_facts_of_a_baseline_are_no_difference():
    assert differences({"cpu": None, "gpus": None, "power_mode": None}, {}) == []
