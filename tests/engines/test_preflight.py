"""Tests the pre-flight: each rule names the node, and the command prints its lines and exit status."""

import dataclasses

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import INT32, Header, Node, read_header
from effedge.engines.preflight import NEVER, ON_DLA, SINCE, main, preflight, refuse, risky_layers
from effedge.engines.targets import TARGETS

PLAIN = Header(13, {}, (1, 1, 1), [], {"x": (1, (1, 3, 8, 8))}, {"y": (1, None)}, {}, ())


def header(*operators: str, **changes) -> Header:
    nodes = [Node(operator, f"the_{operator}", ("x",), ("y",)) for operator in operators]
    return dataclasses.replace(PLAIN, nodes=nodes, **changes)


def fatal(found):
    return {finding.node: finding.reason for finding in found if finding.fatal}


def test_int32_dequantize_linear_is_named(prepared):
    found = fatal(preflight(read_header(prepared("int32-bias")), TARGETS["rtx"]))
    assert len(found) == 3 and all("INT32" in reason for reason in found.values())
    assert not preflight(read_header(prepared("int32-bias")), TARGETS["cpu"])


def test_zero_points_are_for_cpus(prepared):
    model = read_header(prepared("zero-points"))
    [node] = fatal(preflight(model, TARGETS["rtx"]))
    assert node == "data1_q" and len(model.shifted) == 6
    assert not preflight(model, TARGETS["cpu"])
    assert not preflight(read_header(prepared("int8")), TARGETS["rtx"])


def test_suppression_is_named_for_rtx_alone():
    model = header("Conv", "NonMaxSuppression")
    assert list(fatal(preflight(model, TARGETS["rtx"]))) == ["the_NonMaxSuppression"]
    assert not preflight(model, TARGETS["jetson-orin"])


def test_an_opset_too_new_for_jetpack_5():
    [finding] = preflight(header("Conv", opset=19), TARGETS["jetson-xavier"])
    assert finding.fatal and "opset 19" in finding.reason and "at most 17" in finding.reason
    assert not preflight(header("Conv", opset=17), TARGETS["jetson-xavier"])


def test_a_uint8_input_for_jetpack_4():
    model = header("Conv", inputs={"image": (2, (1, 8, 8, 3))})
    assert list(fatal(preflight(model, TARGETS["jetson-nano"]))) == ["image"]
    assert not preflight(model, TARGETS["jetson-xavier"])


@pytest.mark.parametrize(
    ("operator", "target", "refused"),
    [
        ("HardSwish", "jetson-nano", True),
        ("HardSwish", "jetson-xavier", False),
        ("LayerNormalization", "jetson-xavier", True),
        ("LayerNormalization", "jetson-orin-jp6.0", False),
        ("Gelu", "jetson-orin-jp6.0", True),
        ("Gelu", "jetson-orin", False),
        ("Gelu", "rtx", False),
        ("QLinearConv", "trt", True),
    ],
)
def test_operators_by_version(operator, target, refused):
    assert (f"the_{operator}" in fatal(preflight(header("Conv", operator), TARGETS[target]))) is refused


def test_uint8_pairs_are_refused():
    node = Node("QuantizeLinear", "q", ("x", "scale", "zero"), ("y",))
    model = dataclasses.replace(PLAIN, nodes=[node], initializers={"scale": 1, "zero": 2})
    assert "uint8" in fatal(preflight(model, TARGETS["trt"]))["q"]
    assert not preflight(dataclasses.replace(model, initializers={"scale": 1, "zero": 3}), TARGETS["trt"])


@pytest.mark.parametrize(
    ("element", "target", "reason"),
    [(17, "rtx", None), (17, "jetson-orin", "rtx, trt, jetson-thor have, not jetson-orin"), (19, "rtx", "E4M3FN")],
)
def test_fp8_pairs_are_for_targets_that_have_it(element, target, reason):
    node = Node("QuantizeLinear", "q", ("x", "scale", "zero"), ("y",))
    found = preflight(dataclasses.replace(PLAIN, nodes=[node], initializers={"zero": element}), TARGETS[target])
    assert [finding.fatal and reason in finding.reason for finding in found] == ([True] if reason else [])


def test_a_dla_request_on_orin_says_what_falls_back():
    model = header("Conv", "Sigmoid", "Mul", "TopK", "Exp")
    fallback, only = (preflight(model, TARGETS["jetson-orin"], mode) for mode in ("fallback", "only"))
    assert [finding.node for finding in fallback] == ["the_TopK", "the_Exp"] and not fatal(fallback)
    assert list(fatal(only)) == ["the_TopK", "the_Exp"]
    [finding] = preflight(model, TARGETS["jetson-nano"], "only")
    assert "no DLA" in finding.reason and "jetson-orin" in finding.reason


def test_a_dla_takes_neither_pairs_nor_a_dynamic_batch(prepared):
    found = [str(finding) for finding in preflight(read_header(prepared("int8")), TARGETS["jetson-orin"], "fallback")]
    assert any("effedge tensorrt-cache" in line for line in found)
    assert "dynamic batch" in str(preflight(header("Conv", batch=(1, 2, 4)), TARGETS["jetson-orin"], "only")[0])
    with pytest.raises(UserError, match="unknown DLA mode 'onyl'"):
        preflight(PLAIN, TARGETS["jetson-orin"], "onyl")


def test_a_dla_of_typed_networks_alone_takes_pairs_and_says_what_only_the_board_can_check(prepared):
    """TensorRT 11.4.1 on AGX Orin; 10.16 on the same board has none."""
    model = read_header(prepared("int8"))
    found = preflight(model, TARGETS["jetson-orin-trt11"], "fallback")
    assert not fatal(found)
    assert "AGX Orin" in found[0].reason and any(finding.reason.startswith("Q/DQ") for finding in found)
    [finding] = preflight(model, TARGETS["jetson-orin-jp7"], "fallback")
    assert finding.fatal and finding.reason.endswith("jetson-orin, jetson-orin-trt11")


def convolution(kind, activation, group=8, channels=1, quantized=True):
    """DequantizeLinear of data and weights, a convolution, and behind it an `activation` of its output."""
    behind = {
        "swish": [("Sigmoid", ("c",), "s"), ("Mul", ("c", "s"), "out")],
        "swish behind BatchNormalization": [
            ("BatchNormalization", ("c",), "b"), ("Sigmoid", ("b",), "s"), ("Mul", ("s", "b"), "out"),
        ],
        "HardSwish": [("HardSwish", ("c",), "out")],
        "HardSwish in parts": [("Add", ("c", "3"), "a"), ("Clip", ("a",), "s"), ("Mul", ("c", "s"), "out")],
        "ReLU": [("Relu", ("c",), "out")],
        "gate": [("GlobalAveragePool", ("c",), "p"), ("Sigmoid", ("p",), "s"), ("Mul", ("c", "s"), "out")],
        "residual add": [("Add", ("c", "other"), "a"), ("Relu", ("a",), "out")],
    }[activation]  # fmt: skip
    weight = Node("DequantizeLinear", "w_dq", ("w", "s"), ("wd",))
    nodes = [Node("DequantizeLinear", "x_dq", ("xq", "s"), ("xd",)), *([weight] if quantized else [])]
    nodes.append(Node(kind, "conv", ("xd", "wd" if quantized else "w"), ("c",), {"group": group}))
    nodes += [Node(operator, operator.lower(), inputs, (output,)) for operator, inputs, output in behind]
    return dataclasses.replace(PLAIN, nodes=nodes, tensors={"w": (3, (8, channels, 3, 3))})


@pytest.mark.parametrize(
    ("model", "risky"),
    [
        (convolution("Conv", "swish"), True),
        (convolution("Conv", "swish behind BatchNormalization"), True),  # as in NVIDIA/TensorRT#3385
        (convolution("Conv", "HardSwish"), True),
        (convolution("Conv", "HardSwish in parts"), True),
        (convolution("Conv", "ReLU"), False),  # "DQ > DwConv > BN > Relu > Q: OK", #3385
        (convolution("Conv", "gate"), False),
        (convolution("Conv", "residual add"), False),
        (convolution("Conv", "swish", group=1, channels=8), False),  # "DQ > Conv > BN > Swish > Q: OK", #3385
        (convolution("Conv", "swish", group=2, channels=4), False),
        (convolution("Conv", "swish", quantized=False), False),
    ],
)
def test_int8_depthwise_convolutions_before_a_swish_are_a_note_on_tensorrt_8(model, risky):
    for target in ("jetson-xavier", "jetson-orin-jp5", "jetson-orin-jp6.0", "trt8"):
        assert risky_layers(model, TARGETS[target]) == (["conv"] if risky else [])
        notes = [finding for finding in preflight(model, TARGETS[target]) if "#3385" in finding.reason]
        assert [(note.node, note.fatal) for note in notes] == ([("conv", False)] if risky else [])
        assert all("--fallback" in note.reason and "(1 from here on)" in note.reason for note in notes)
    for target in ("jetson-nano", "jetson-orin", "rtx", "trt", "cpu"):
        assert risky_layers(model, TARGETS[target]) == []


def test_the_tables_do_not_contradict_each_other():
    later = [name for names in SINCE.values() for name in names]
    assert len(set(later)) == len(later) and not set(later) & set(NEVER) and not set(ON_DLA) & {*NEVER, "TopK"}


def test_a_refusal_is_the_first_reason_and_a_count(tmp_path):
    model = dataclasses.replace(header("Det", "Unique"), initializers={"x": INT32})
    with pytest.raises(UserError, match=r"^trt cannot take 'm.onnx': the_Det: Det, .*\(and 1 more: "):
        refuse(model, tmp_path.joinpath("m.onnx").relative_to(tmp_path), TARGETS["trt"])


@pytest.mark.parametrize(("name", "status"), [("int32-bias", 2), ("int8", 0)])
def test_the_command(prepared, call_main, name, status):
    code, out, err = call_main(main, prepared(name), "--target", "rtx")
    assert code == status
    if status:
        assert out.count("fails: ") == 3 and "see the 3 lines that begin with 'fails' above" in err
    else:
        assert "nothing known speaks against" in out


def test_a_dla_request_on_a_cpu_says_only_that_there_is_none():
    model = header("Conv", "NonMaxSuppression")
    [finding] = preflight(model, TARGETS["cpu"], "only")
    assert "no DLA" in finding.reason
