"""Tests the pre-flight: each rule names the node, and the command prints its lines and exit status."""

import dataclasses

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import INT32, Header, Node, read_header
from effedge.engines.preflight import NEVER, ON_DLA, SINCE, main, preflight, refuse
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
    assert (out.count("fails: ") == 3 and "3 lines above" in err) if status else "nothing known speaks against" in out


def test_a_dla_request_on_a_cpu_says_only_that_there_is_none():
    model = header("Conv", "NonMaxSuppression")
    [finding] = preflight(model, TARGETS["cpu"], "only")
    assert "no DLA" in finding.reason
