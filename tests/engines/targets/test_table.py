"""Tests the table against NVIDIA's published facts, and the documented table against it."""

from pathlib import Path

import pytest

from effedge.engines.targets import FLAGS, ROWS, TARGETS, TYPED
from effedge.engines.targets.jetson import KINDS


@pytest.mark.parametrize(
    ("name", "version", "python", "how", "opset", "progress"),
    [  # JetPack's release notes and onnx-tensorrt's docs/operators.md
        ("jetson-nano", "8.2.1", "3.6", FLAGS, 13, False),
        ("jetson-xavier", "8.5.2", "3.8", FLAGS, 17, False),
        ("jetson-orin-jp5", "8.5.2", "3.8", FLAGS, 17, False),
        ("jetson-orin-jp6.0", "8.6.2", "3.10", FLAGS, 17, False),
        ("jetson-orin", "10.3.0", "3.10", TYPED, 20, True),
        ("jetson-orin", "10.7.0", "3.10", TYPED, 20, True),
        ("jetson-orin-jp7", "10.16.1", "3.12", TYPED, 24, True),
        ("jetson-orin-trt11", "11.4.1", "3.12", TYPED, 24, True),
        ("jetson-thor", "10.13.3", "3.12", TYPED, 22, True),
    ],
)
def test_a_jetson_has_what_its_jetpack_ships(name, version, python, how, opset, progress):
    row = TARGETS[name]
    assert version.startswith(row.versions)
    assert (row.python, row.precision_by, row.opset, row.progress) == (python, how, opset, progress)
    assert row.jetson


def test_only_the_nano_has_no_fast_int8_and_no_uint8_input():
    assert [row.name for row in TARGETS.values() if not row.fast_int8] == ["jetson-nano"]
    assert [row.name for row in TARGETS.values() if not row.uint8_input] == ["jetson-nano"]


def test_a_dla_is_where_nvidia_says_that_tensorrt_builds_for_it():
    """10.7 is the last 10.x with a DLA; 11.4.1 has one again, on Orin; Nano and Thor have none ("Working with DLA")."""
    assert {row.name for row in ROWS if row.dla} == {
        "jetson-xavier", "jetson-orin-jp5", "jetson-orin-jp6.0", "jetson-orin", "jetson-orin-trt11",
    }  # fmt: skip
    assert [row.name for row in ROWS if row.dla_note] == ["jetson-orin-trt11"]


def test_no_two_rows_of_one_board_have_a_tensorrt_in_common():
    for row in ROWS:
        for other in ROWS:
            if row is not other and row.jetson is not None and row.jetson == other.jetson:
                assert not any(one.startswith(prefix) for one in row.versions for prefix in other.versions)


def test_a_jetsons_kind_is_one_that_a_gpu_can_have():
    assert {row.jetson for row in ROWS} - {None} <= set(KINDS.values())
    assert all(row.l4t and row.versions and row.python for row in ROWS if row.jetson)


def test_a_prefix_ends_with_a_point():
    """10.1 is no prefix of 10.16."""
    assert all(prefix.endswith(".") for row in ROWS for prefix in (*row.versions, *row.l4t))


def test_the_documented_boards_are_those_of_the_table():
    page = Path(__file__).parents[3].joinpath("docs/targets.md").read_text(encoding="utf-8")
    documented = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.count("|") == 7
    ]
    boards = {cells[0].strip("`"): cells[1:] for cells in documented if cells[0].startswith("`jetson")}
    for row in filter(lambda row: row.jetson, ROWS):
        device, release, tensorrt, python, dla = boards.pop(row.name)
        assert (device, python, dla != "no") == (row.device, row.python, row.dla)
        assert tensorrt.startswith(row.versions[0].rstrip(".")) and tensorrt.endswith(row.versions[-1].rstrip("."))
        assert release.startswith(row.l4t[0].rstrip(".")) and release.endswith(row.l4t[-1].rstrip("."))
    assert not boards
