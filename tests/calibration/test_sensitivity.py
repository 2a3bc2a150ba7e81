"""The table, the JSON and the plot of a report whose numbers are known."""

import doctest
import json
import sys
from functools import partial

import onnx
import pytest

from effedge.calibration import sensitivity
from effedge.calibration.sensitivity import (
    add_drops,
    draw,
    format_table,
    layer_names,
    main,
    rank_groups,
    shorten_names,
)
from effedge.deploy.common.contracts import CALIBRATION_KEY
from tests.calibration import networks

REPORT = {
    "output_error": 0.05,
    "thresholds": {"a": 1.0},
    "float_layers": {"conv_b": "in INT8 it adds 0.03 to the output error", "gate": "it is part of squeeze-and-excite"},
    "sensitivity": [
        {"layers": ["conv_b"], "tensors": ["b"], "gain": 0.03, "macs": 0.125},
        {"layers": ["conv_a", "conv_c"], "tensors": ["a"], "gain": 0.01, "macs": 0.5},
        {"layers": ["add"], "tensors": ["d"], "gain": -0.001, "macs": 0.0},
    ],
}


@pytest.fixture
def call(call_main):
    return partial(call_main, main)


@pytest.fixture
def saved(tmp_path):
    """saved(report): an ONNX file that carries it."""

    def inner(report):
        proto = networks.classifier().proto()
        if report is not None:
            onnx.helper.set_model_props(
                proto, {CALIBRATION_KEY: report if isinstance(report, str) else json.dumps(report)}
            )
        onnx.save(proto, tmp_path / "int8.onnx")
        return tmp_path / "int8.onnx"

    return inner


def test_the_worst_come_first_with_what_became_of_them(call, saved):
    status, out, _ = call(saved(REPORT), "--worst", 2)
    head, first, second, more, by_rule = out.splitlines()
    assert status == 0 and head.split() == ["rank", "gain", "MACs", "layers", "kept", "in"]
    assert first.split(maxsplit=4) == [
        "1",
        "0.03",
        "12.50%",
        "conv_b",
        "16 bit: in INT8 it adds 0.03 to the output error",
    ]
    assert second.split() == ["2", "0.01", "50.00%", "conv_a,", "conv_c", "INT8"]
    assert more.startswith("1 more")
    assert by_rule == "1 layers in 16 bit by rule: it is part of squeeze-and-excite"


def test_the_json_has_every_row(call, saved, tmp_path):
    assert call(saved(REPORT), "--worst", 1, "--json", tmp_path / "new" / "s.json")[0] == 0
    written = json.loads((tmp_path / "new" / "s.json").read_text())
    assert written["output_error"] == 0.05
    assert [row["rank"] for row in written["rows"]] == [1, 2, 3]
    assert [row["kept"] for row in written["rows"]] == [
        "16 bit: in INT8 it adds 0.03 to the output error", "INT8", "16 bit: so are the layers beside it",
    ]  # fmt: skip


def test_the_plot_is_an_image(call, saved, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    assert call(saved(REPORT), "--plot", tmp_path / "s.png")[0] == 0
    with Image.open(tmp_path / "s.png") as image:
        assert image.width > 500


def test_the_plot_of_gains_is_logarithmic_and_names_its_axes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.write_bytes(b"x")))
    rows = rank_groups(REPORT)
    draw(rows, tmp_path / "s.png")
    draw(add_drops(rows, [69.0, None, 69.5], 70.0), tmp_path / "s.png")
    gains, drops = (figure.axes[0] for figure in drawn)
    assert gains.get_xscale() == "log" and "share of the output error" in gains.get_xlabel() and gains.get_title()
    assert drops.get_xscale() == "linear" and "points" in drops.get_xlabel() and drops.get_ylabel()
    top, bottom = drops.get_ylim()[1], drops.get_ylim()[0]
    assert top < 1 and bottom > 3  # three rows, the worst on top, and room for the one without a bar


def test_layers_are_named_without_what_all_names_begin_with():
    assert doctest.testmod(sensitivity).failed == 0
    names = [f"/backbone/blocks.{index}/conv" for index in range(6)]
    assert layer_names(names) == "backbone.blocks: 0.conv, 1.conv, 2.conv, 3 more"
    assert layer_names(["a.b", "c.d"]) == "a.b, c.d"


def test_gains_of_zero_are_explained_in_one_line(call, saved, tmp_path):
    zero = {**REPORT, "output_error": 0.0007, "sensitivity": [{**row, "gain": 0.0} for row in REPORT["sensitivity"]]}
    status, out, _ = call(saved(zero))
    assert status == 0 and out.splitlines()[0].startswith(
        "all 3 groups of layers together make an output error of 0.0007"
    )
    status, _, error = call(saved(zero), "--plot", tmp_path / "s.png")
    assert status == 2 and error.count("\n") == 1 and "nothing to draw" in error


def test_a_missing_matplotlib_is_one_line(call, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    status, _, error = call(saved(REPORT), "--plot", tmp_path / "s.png")
    assert status == 2 and error.count("\n") == 1 and "pip install" in error and not (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("report", "message"),
    [(None, "has no report"), ("{", "damaged"), ({"float_layers": {}}, "has no report")],
)
def test_a_model_without_a_report_is_one_line(call, saved, report, message):
    status, _, error = call(saved(report))
    assert status == 2 and error.count("\n") == 1 and message in error


def test_bad_arguments_are_one_line(call, saved, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in (
        (tmp_path / "gone.onnx",),
        (saved(REPORT), "--worst", 0),
        (saved(REPORT), "--json", tmp_path / "file" / "s.json"),
    ):
        status, _, error = call(*arguments)
        assert status == 2 and error.count("\n") == 1


def test_long_lists_of_layers_are_cut():
    assert shorten_names(["a", "b"]) == "a, b"
    cut = shorten_names([f"a_long_name_of_a_layer_{index}" for index in range(9)])
    assert cut == "a_long_name_of_a_layer_0 and 8 more"
    assert len(shorten_names(["x" * 200])) == 60


def test_drops_come_before_gains_and_what_was_not_measured_last():
    found = add_drops(rank_groups(REPORT), [None, 96.5, 97.0], 97.25)
    assert [(row["layers"][0], row["drop"]) for row in found] == [("conv_a", 0.75), ("add", 0.25), ("conv_b", None)]
    assert [row["rank"] for row in found] == [1, 2, 3]
    head, first, _, last, _ = format_table(found, REPORT, 5).splitlines()
    assert head.split()[:3] == ["rank", "drop", "gain"]
    assert first.split()[:4] == ["1", "0.75", "0.01", "50.00%"] and last.split()[:2] == ["3", "-"]


def test_drops_that_are_the_same_go_by_the_gain():
    found = add_drops(rank_groups(REPORT)[::-1], [97.0, 97.0, 97.0], 97.0)
    assert [row["layers"][0] for row in found] == ["conv_b", "conv_a", "add"]


def test_drops_are_ranked_where_no_gain_was_measured():
    zero = {**REPORT, "sensitivity": [{**row, "gain": 0.0} for row in REPORT["sensitivity"]]}
    found = add_drops(rank_groups(zero), [97.0, 96.0, 97.5], 97.0)
    assert format_table(found, zero, 1).splitlines()[1].split()[:2] == ["1", "1.00"]
