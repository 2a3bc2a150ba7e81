"""Baselines whose numbers are none: a verdict rests on them, and no damage may make the latency test pass."""

import json

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.latency_test import FORMAT, check, read_baseline

ROWS = {"engine": [2.0, 2.1, 2.2, 2.0, 2.1, 2.05], "end to end": [3.0, 3.1, 3.2, 3.0, 3.1, 3.05]}
BASELINE = {
    "format": FORMAT, "kept": False, "engine": {"folder": "e", "files": {}}, "board": None,
    "machine": {"cpu": "c", "cores": 2}, "versions": {"numpy": "2"}, "reference": {"threads": 2, "rounds": 4},
    "loads": [0, 0, 0, 1, 1, 1], "ms": ROWS, "yardstick_ms": ROWS,
}  # fmt: skip


def read(folder, content):
    path = folder / "baseline.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_baseline(path)


def test_a_whole_baseline_is_read(tmp_path):
    assert read(tmp_path, BASELINE) == BASELINE


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "null", "0", "-1", "true", '"1"', "[1]", "1e300"])
@pytest.mark.parametrize("rows", ["ms", "yardstick_ms"])
def test_a_number_that_is_no_latency_does_not_make_the_test_pass(tmp_path, rows, value):
    content = json.loads(json.dumps(BASELINE))
    content[rows]["engine"][0] = "here"
    with pytest.raises(UserError, match=rf"no finite number|its '{rows}' is missing or wrong"):
        read(tmp_path, json.dumps(content).replace('"here"', value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reference", {"threads": 4_000_000_000, "rounds": 4}),
        ("reference", {"threads": "2", "rounds": 4}),
        ("reference", {"threads": 2}),
        ("loads", [0] * 6),  # of one load there is no interval
        ("loads", ["a"] * 6),
        ("board", {"cpu": "fast"}),
        ("board", {"gpus": [1]}),
        ("engine", 7),
        ("engine", {"folder": "e"}),
        ("versions", {"numpy": 2}),
        ("machine", {}),
        ("ms", {}),
        ("ms", {"engine": [1.0]}),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path, field, value):
    with pytest.raises(UserError, match=f"its '{field}' is missing or wrong"):
        read(tmp_path, {**BASELINE, field: value})


@pytest.mark.parametrize("content", ["[1]", "7", "null", "[" * 100_000, '{"format": 5}', '{"format": "5"}'])
def test_what_is_no_baseline_at_all_is_one_line(tmp_path, content):
    with pytest.raises(UserError, match="is no latency baseline|is damaged"):
        read(tmp_path, content)


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -0.01])
def test_a_tolerance_that_is_none_is_refused(tmp_path, tolerance):
    with pytest.raises(UserError, match="expected 0 or more per cent"):
        check("e", read(tmp_path, BASELINE), tolerance)


def test_a_baseline_does_not_say_where_its_engine_was_kept(tmp_path):
    assert "kept_at" not in read(tmp_path, {**BASELINE, "kept_at": str(tmp_path)})
