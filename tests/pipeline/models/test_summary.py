"""The papers' tables: EfficientNet's table 1 and V2's table 4 exactly, the papers' parameters and FLOPs within 5%."""

import pytest

from effedge.pipeline.models.summary import main, summarize
from effedge.pipeline.models.tables import Size


def test_b0_is_table_1():
    assert [(row.operator, row.resolution, row.channels, row.layers) for row in summarize("b0")] == [
        ("Conv3x3", "224", 32, 1),
        ("MBConv1, k3x3", "112", 16, 1),
        ("MBConv6, k3x3", "112", 24, 2),
        ("MBConv6, k5x5", "56", 40, 2),
        ("MBConv6, k3x3", "28", 80, 3),
        ("MBConv6, k5x5", "14", 112, 3),
        ("MBConv6, k5x5", "14", 192, 4),
        ("MBConv6, k3x3", "7", 320, 1),
        ("Conv1x1, pooling, FC", "7", 1280, 1),
    ]


def test_v2_s_is_v2s_table_4():
    rows = summarize("v2-s")
    assert [(row.operator, row.stride, row.channels, row.layers) for row in rows] == [
        ("Conv3x3", "2", 24, 1),
        ("Fused-MBConv1, k3x3", "1", 24, 2),
        ("Fused-MBConv4, k3x3", "2", 48, 4),
        ("Fused-MBConv4, k3x3", "2", 64, 4),
        ("MBConv4, k3x3, SE0.25", "2", 128, 6),
        ("MBConv6, k3x3, SE0.25", "1", 160, 9),
        ("MBConv6, k3x3, SE0.25", "2", 256, 15),
        ("Conv1x1, pooling, FC", "-", 1280, 1),
    ]


# Millions of parameters and billions of multiply-adds, as printed in the papers, and for V2 in its README.
@pytest.mark.parametrize(
    ("name", "parameters", "flops"),
    [
        ("b0", 5.3, 0.39), ("b1", 7.8, 0.70), ("b2", 9.2, 1.0), ("b3", 12, 1.8), ("b4", 19, 4.2), ("b5", 30, 9.9),
        ("b6", 43, 19), ("b7", 66, 37),
        ("d0", 3.9, 2.5), ("d1", 6.6, 6.1), ("d2", 8.1, 11), ("d3", 12, 25), ("d4", 21, 55), ("d5", 34, 135),
        ("d6", 52, 226), ("d7", 52, 325), ("d7x", 77, 410),
        ("v2-s", 21.5, 8.4), ("v2-m", 54.1, 24.7), ("v2-l", 119.5, 56.3),
        ("v2-b0", 7.1, 0.72), ("v2-b1", 8.1, 1.2), ("v2-b2", 10.1, 1.7), ("v2-b3", 14.4, 3.0),
    ],
)  # fmt: skip
def test_parameters_and_flops_are_the_papers(name, parameters, flops):
    rows = summarize(name)
    assert sum(row.parameters for row in rows) / 1e6 == pytest.approx(parameters, rel=0.05)
    assert sum(row.flops for row in rows) / 1e9 == pytest.approx(flops, rel=0.05)


def test_a_convolution_is_counted_by_its_formula():
    # H x W x K x K x M x N / groups: the stem of B0, and its first block (depthwise, SE, projection)
    stem, block = summarize("b0")[:2]
    assert stem.flops == 112 * 112 * 3 * 3 * 3 * 32 and stem.parameters == 3 * 3 * 3 * 32 + 2 * 32
    assert block.flops == 112 * 112 * (3 * 3 * 32 + 32 * 16) + 2 * 32 * 8


def test_every_parameter_is_in_a_row_whatever_the_classes_and_the_size():
    from effedge.pipeline.models.create import create_model

    v1 = [("lite2", 7), ("d0", 3), ("d7x", 90), ("det-lite1", 1)]
    v2 = [("v2-b2", 5), ("efficientnetv2_rw_s", 4), ("det-v2-b0", 2), ("det-v2-s", 2), ("efficientdetv2_dt", 2)]
    for name, classes in v1 + v2:
        total = sum(parameter.numel() for parameter in create_model(name, classes).parameters())
        assert sum(row.parameters for row in summarize(name, classes)) == total
    half, full = (sum(row.flops for row in summarize("d0", size=Size(size, size))) for size in (256, 512))
    assert full / half == pytest.approx(4, rel=0.01)


def test_necks_are_compared_by_their_nodes_and_weights():
    rows = {name: summarize(name)[-3] for name in ("d0", "d0-fpn", "d0-panet", "d0-bifpn-sum", "d0-bifpn-softmax")}
    assert [row.operator for row in rows.values()] == [
        "BiFPN, fast fusion",
        "FPN, sum fusion",
        "PANet, sum fusion",
        "BiFPN, sum fusion",
        "BiFPN, softmax fusion",
    ]
    # A weight for each edge: three layers of five nodes with two inputs and three with three.
    assert rows["d0"].parameters - rows["d0-bifpn-sum"].parameters == 3 * (5 * 2 + 3 * 3)
    assert rows["d0"][2:6] == rows["d0-bifpn-softmax"][2:6]
    # Of a node: depthwise 3x3 with 64 channels, 1x1 with a bias, BatchNorm. PANet has ten in a layer, FPN half of them.
    node = 9 * 64 + 64 * 64 + 64 + 2 * 64
    assert rows["d0-panet"].parameters - rows["d0-fpn"].parameters == 3 * 5 * node
    cells = [side * side for side in (64, 32, 16, 8, 4)]
    flops = (9 * 64 + 64 * 64) * sum(cells)
    assert rows["d0-panet"].flops - rows["d0-fpn"].flops == 3 * flops


def test_the_pyramid_is_shown_from_its_finest_to_its_coarsest_level():
    assert [row.resolution for row in summarize("d7x")[-3:]] == ["192-6"] * 3
    assert [row.layers for row in summarize("d7x")[-3:]] == [8, 5, 5]


def test_a_p5_of_the_necks_channels_has_no_projection():
    rows = [row.operator for row in summarize("det-v2-s", size=Size(256, 256))]
    assert rows[6:8] == ["MBConv6, k3x3, SE0.25", "BiFPN, fast fusion"]  # P6 is a max-pool of V2-S's 256 channels
    assert summarize("efficientdetv2_ds", size=Size(256, 256))[7].operator == "P6 from P5: Conv1x1, bilinear"


def test_the_table_is_printed_with_totals(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["summary", "d0"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "d0, input 512" and lines[-1].split() == ["total", "3,880,067", "2.492", "B"]
    assert len(lines) == 15


def test_v2s_table_counts_from_0_and_has_the_stride(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["summary", "v2-b0"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["stage", "operator", "stride", "resolution"]
    assert lines[2].split()[:4] == ["0", "Conv3x3", "2", "224"] and lines[-1].split()[:2] == ["total", "7,139,704"]
