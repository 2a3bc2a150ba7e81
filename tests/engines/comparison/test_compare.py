"""Tests what becomes of an engine that is right, far away, or wrong, with runs and searches of known outcome."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.timing.workload import make_workload
from effedge.engines.build import make_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.build_request import BuildRequest, RefusedError
from effedge.engines.comparison import compare
from effedge.engines.comparison.inputs import inputs_of_run
from effedge.engines.comparison.reference import Reference
from effedge.engines.manifest import BuiltEngine
from effedge.engines.onnx_header import read_header
from effedge.engines.openvino.reader.search import Found
from effedge.engines.targets import TARGETS


def request(path, precision="fp32", target="cpu"):
    return BuildRequest(path, read_header(path), precision, TARGETS[target])


def built(path, noise, search=None):
    """An engine whose outputs are the reference's with so much noise, in dB."""

    def run(feeds):
        rng, outputs = np.random.default_rng(0), Reference(path, path).run(feeds)
        return {
            name: array + (rng.normal(size=array.shape) * np.std(array) * 10 ** (-noise / 20)).astype(array.dtype)
            for name, array in outputs.items()
        }

    return BuiltEngine("engine", {"name": "openvino", "version": "1"}, [], "executed", run=run, search=search)


def outcome(path, precision, noise, search=None):
    return compare.compared(request(path, precision), built(path, noise, search), path.parent).comparison


RIGHT, ROUNDING, TOGETHER = Found("", together_right=True), Found("", True, True), Found("")


def never(feeds):
    raise AssertionError("it is right, and needs no search")


@pytest.mark.parametrize(("precision", "noise"), [("fp32", 75), ("fp16", 40), ("int8", 30)])
def test_what_is_near_is_right_for_effedges_own_models(prepared, precision, noise):
    entry = outcome(prepared("f32"), precision, noise, never)
    assert entry["note"] == "" and entry["reference"].startswith("ONNX Runtime 1.")
    assert entry["decibels"]["logits"] == pytest.approx(noise, abs=4)


@pytest.mark.parametrize(("precision", "noise"), [("fp32", 45), ("fp16", 15), ("int8", 12)])
@pytest.mark.parametrize("found", [RIGHT, ROUNDING])
def test_what_is_far_is_right_where_the_search_says_so(prepared, precision, noise, found):
    if precision == "fp32" and not found.rounding:
        with pytest.raises(compare.DisagreementError, match="though no operator by itself"):
            outcome(prepared("f32"), precision, noise, lambda feeds: found)
        return
    assert "rounding makes the difference" in outcome(prepared("f32"), precision, noise, lambda feeds: found)["note"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_wrong_operator_is_an_error_and_so_is_a_wrong_whole(prepared, precision):
    wrong = Found("Softmax 'old'")
    with pytest.raises(
        compare.DisagreementError, match=r"openvino 1 computes Softmax 'old' .*'logits' of '.*' is \d+ dB"
    ):
        outcome(prepared("f32"), precision, 5, lambda feeds: wrong)
    with pytest.raises(compare.DisagreementError, match="though no operator by itself"):
        outcome(prepared("f32"), precision, 5, lambda feeds: TOGETHER)


def test_others_models_in_low_precision_are_searched_even_if_near(prepared):
    with pytest.raises(compare.DisagreementError, match="computes Softmax 'old'"):
        outcome(prepared("no-metadata"), "int8", 30, lambda feeds: Found("Softmax 'old'"))
    assert outcome(prepared("no-metadata"), "int8", 30, lambda feeds: RIGHT)["note"] == ""
    assert outcome(prepared("no-metadata"), "fp32", 80, never)["note"] == ""


def test_a_backend_without_a_search_is_judged_by_its_outputs(prepared):
    assert outcome(prepared("f32"), "fp32", 45)["note"] == "far for fp32"  # TF32
    assert outcome(prepared("f32"), "int8", 15)["note"] == "far for int8"
    for precision, noise in (("fp32", 20), ("int8", 5)):
        with pytest.raises(compare.DisagreementError, match="computes something else than the ONNX"):
            outcome(prepared("f32"), precision, noise)


def test_a_wrong_engine_in_16_bits_has_no_stand_in(prepared, tmp_path):
    path = prepared("f32")

    def build(asked):
        return asked, built(path, 0, lambda feeds: Found("Conv 'conv1'"))

    with pytest.raises(UserError, match=r"Conv 'conv1'.*has no 16 bits: build PRECISION=fp32 or int8"):
        compare.build_compared(build, request(path, "fp16"), tmp_path)


def test_where_the_engine_cannot_run_the_manifest_says_so(prepared):
    path = prepared("f16")
    engine = replace(built(path, 0), run=None, backend={"name": "tensorrt_rtx", "version": "1"})
    entry = compare.compared(request(path, "fp16", "rtx"), engine, path.parent).comparison
    assert entry["reference"] is None and entry["note"] == "this machine cannot run the engine"


def test_without_onnx_runtime_the_manifest_says_so(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "is_installed", lambda: False)
    make_engine(prepared("f32"), tmp_path / "e", precision="fp32", target=TARGETS["cpu"])
    assert read_manifest(tmp_path / "e")["comparison"]["note"] == "ONNX Runtime is not installed"
    assert "not compared with its ONNX: ONNX Runtime is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["f32", "int8-dynamic", "own-batch", "tail"])
def test_drawn_inputs_fit_the_model(prepared, name):
    header = read_header(prepared(name))
    feeds = inputs_of_run(header)
    outputs = Reference(prepared(name), prepared(name)).run(feeds)
    assert set(feeds) == set(header.inputs) and set(outputs) == set(header.outputs)


def test_an_input_that_is_one_number_keeps_its_shape(tmp_path, capsys):
    """As the sampling rate of a model for sound: with an axis more OpenVINO refuses it."""
    inputs = {"x": (TensorProto.FLOAT, [1, 3]), "rate": (TensorProto.INT64, [])}
    values = [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
    cast = helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT)
    nodes = [cast, helper.make_node("Mul", ["x", "r"], ["y"])]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "n.onnx")
    np.savez(tmp_path / "a.npz", x=np.ones((4, 1, 3), np.float32), rate=np.full(4, 16000))
    header = read_header(tmp_path / "n.onnx")
    for file in ("", str(tmp_path / "a.npz")):
        feeds = inputs_of_run(header, file)
        assert isinstance(feeds["rate"], np.ndarray) and feeds["rate"].shape == ()
    options = BuildOptions(compare_on=str(tmp_path / "a.npz"))
    make_engine(tmp_path / "n.onnx", tmp_path / "e", precision="fp32", target=TARGETS["cpu"], build_options=options)
    assert "cannot build" not in capsys.readouterr().err
    assert read_manifest(tmp_path / "e")["backend"]["name"] == "openvino"
    assert make_workload(tmp_path / "e", []).run()["engine"] > 0


def test_the_manifest_says_how_near_the_engine_is(prepared, tmp_path):
    for name, precision, target in (("f32", "fp32", "cpu"), ("int8", "int8", "cpu"), ("int8", "int8", "cpu-ort")):
        folder = tmp_path / f"{precision}-{target}"
        make_engine(prepared(name), folder, precision=precision, target=TARGETS[target])
        entry = read_manifest(folder)["comparison"]
        assert entry["decibels"]["logits"] > compare.ENOUGH[precision] and entry["corrected"] == []


def test_the_users_inputs_take_the_place_of_drawn_ones(prepared, tmp_path):
    header = read_header(prepared("any-batch"))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", image=images)
    np.testing.assert_array_equal(inputs_of_run(header, str(tmp_path / "a.npz"))["image"], images[:1])
    own = read_header(prepared("own-batch"))  # of 3 images
    np.savez(tmp_path / "b.npz", image=images[:2])
    np.testing.assert_array_equal(inputs_of_run(own, str(tmp_path / "b.npz"))["image"], images[[0, 1, 0]])
    Image.fromarray(images[0]).save(tmp_path / "i.png")
    spec = read_header(prepared("f32"))
    assert inputs_of_run(spec, str(tmp_path / "i.png"))["image"].shape == (1, 32, 32, 3)
    options = BuildOptions(compare_on=str(tmp_path / "a.npz"))
    make_engine(prepared("f32"), tmp_path / "e", precision="fp32", target=TARGETS["cpu"], build_options=options)
    assert read_manifest(tmp_path / "e")["comparison"]["inputs"] == str(tmp_path / "a.npz")


def test_inputs_that_do_not_fit_are_refused(prepared, tmp_path):
    header = read_header(prepared("any-batch"))
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    np.savez(tmp_path / "b.npz", image=np.zeros((1, 16, 32, 3), np.uint8))
    (tmp_path / "c.npz").write_bytes(b"none")
    np.savez(tmp_path / "e.npz", image=np.zeros((1, 32, 32, 3), np.float64))
    messages = {
        "a.npz": r"has \['other'\], but the model takes",
        "b.npz": "has shape",
        "c.npz": "no whole",
        "d.npz": "No such",
        "e.npz": "is float64, the model takes uint8: convert it",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            inputs_of_run(header, str(tmp_path / name))
    with pytest.raises(UserError, match="does not say how it takes images"):
        inputs_of_run(header, str(tmp_path / "i.png"))


def test_a_run_that_fails_is_no_traceback(prepared):
    def fail(feeds):
        raise RuntimeError("Exception from src/x.cpp:1\nno kernel\n")

    path = prepared("f32")
    with pytest.raises(RefusedError, match="openvino cannot run '.*f32.onnx': no kernel"):
        compare.compared(request(path), replace(built(path, 100), run=fail), path.parent)


def test_bfloat16_may_round_far_away_where_every_operator_is_right_but_not_to_nan(prepared, caplog):
    entry = outcome(prepared("f32"), "fp16", 5, lambda feeds: RIGHT)
    assert "rounding makes the difference" in entry["note"] and "by rounding, though" in caplog.text
    with pytest.raises(compare.DisagreementError, match="though no operator by itself"):
        outcome(prepared("f32"), "fp16", 5, lambda feeds: TOGETHER)
    with pytest.raises(compare.DisagreementError, match="though no operator by itself"):
        outcome(prepared("f32"), "fp16", -2000, lambda feeds: RIGHT)
    with pytest.raises(compare.DisagreementError, match="computes something else"):  # no search: a GPU's FP16
        outcome(prepared("f32"), "fp16", 12)


@pytest.mark.parametrize(
    ("precision", "values", "right"),
    [
        ("int8", {"features": 40.0, "class": 1.0}, True),
        ("fp16", {"features": 40.0, "class": 1.0}, True),
        ("fp32", {"features": 80.0, "class": 1.0}, False),
        ("int8", {"features": 12.0, "class": 1.0}, False),
        ("int8", {"class": 1.0}, False),
    ],
)
def test_a_label_may_change_by_rounding_where_the_other_outputs_are_near(prepared, precision, values, right):
    engine = built(prepared("f32"), 0, lambda feeds: TOGETHER)
    arguments = request(prepared("f32"), precision), engine, {}, values, ["class"]
    if right:
        assert compare.judge(*arguments) == "every operator is right, and rounding changes 'class'"
    else:
        with pytest.raises(compare.DisagreementError, match="'class' of .* is 1 dB"):
            compare.judge(*arguments)
