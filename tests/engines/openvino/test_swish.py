"""Tests swish as a polynomial: its error, where it is applied, and that the faster form is taken."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from effedge import Runner
from effedge.deploy.common.cli import UserError
from effedge.deploy.timing import comparison
from effedge.engines.openvino import float_parts, race, swish
from effedge.engines.openvino.graph import opset
from tests.engines import graphs
from tests.engines.openvino.builds import built

ov = pytest.importorskip("openvino")
ops = opset(ov)
DEVIATIONS = (1, 2, 4)


def exact(x):
    return x / (1 + np.exp(-x))


def h(t):
    return t / (1 + np.exp(t))


def compiled_polynomial(x, fit=swish.FINEST):
    """Runs the polynomial's operations on OpenVINO, in float32."""
    source = ops.parameter([len(x)], np.float32)
    model = ov.Model([swish.polynomial(ops, source, "swish", fit)], [source])
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(model, "CPU", config)([x.astype(np.float32)])[0]


def test_it_is_as_near_to_swish_as_it_says():
    x = np.linspace(-100, 100, 400001)
    off = np.abs(compiled_polynomial(x) - exact(x))
    assert off.max() == pytest.approx(swish.FINEST.error, rel=0.02)
    assert abs(x[off.argmax()]) == pytest.approx(swish.FINEST.end, abs=0.1)
    for deviation, most in zip(DEVIATIONS, (0.00045, 0.00055, 0.00115), strict=True):
        weights = np.exp(-((x / deviation) ** 2) / 2)
        assert np.sqrt(np.average(off**2, weights=weights)) < most


def test_no_polynomial_of_its_degree_is_nearer_in_the_sense_of_its_fit():
    t = np.linspace(0, 14, 2801)
    weights = sum(np.exp(-((t / deviation) ** 2) / 2) / deviation for deviation in DEVIATIONS)
    powers = (np.minimum(t, swish.FINEST.end) / swish.FINEST.end)[:, None] ** np.arange(
        1, len(swish.FINEST.coefficients) + 1
    )
    # 0 at the end: the last coefficient is what the others leave
    root = np.sqrt(weights)[:, None]
    fitted = np.linalg.lstsq(root * (powers[:, :-1] - powers[:, -1:]), root[:, 0] * h(t), rcond=None)[0]
    fitted = np.append(fitted, -fitted.sum()) / swish.FINEST.end ** np.arange(1, len(fitted) + 2)
    assert fitted == pytest.approx(swish.FINEST.coefficients, rel=1e-6)


@pytest.mark.parametrize("fit", swish.COARSER)
def test_the_coarser_ones_are_the_nearest_of_their_degree_and_used_where_8_bits_hide_them(fit):
    """A minimax fit reaches its largest error with alternating sign, once more often than it has coefficients
    (Chebyshev's alternation)."""
    x = np.linspace(-100, 100, 400001)
    off = compiled_polynomial(x, fit) - exact(x)
    assert np.abs(off).max() == pytest.approx(fit.error, rel=0.03) and np.abs(off).max() <= fit.error
    extremes = off[(x >= 0) & (np.abs(off) > 0.99 * np.abs(off).max())]  # the last one may be far beyond its end
    assert 1 + np.count_nonzero(np.diff(np.sign(extremes))) >= len(fit.coefficients) + 1
    assert swish.fit_for(fit.error * 10.1) == fit != swish.fit_for(fit.error * 9.9)


def test_the_fit_follows_the_step_of_what_reads_it():
    source = ops.parameter([1, 4, 96, 96], np.float32)
    for high, degree in ((20.0, 4), (10.0, 5), (4.0, 7), (None, 7)):
        gated = ops.multiply(source, ops.sigmoid(source))
        bounds = [ops.constant(np.float32(each)) for each in (0.0, high or 1.0)]
        result = gated if high is None else ops.fake_quantize(gated, *bounds, *bounds, 256)
        another = ops.fake_quantize(ops.negative(source), *bounds, *bounds, 256)
        model = ov.Model([result, another], [source])
        assert swish.use_polynomial(ov, model) == 1
        found = [node.get_type_name() for node in model.get_ordered_ops()]
        assert found.count("FakeQuantize") == 1
        # One addition for each power, and one for the half behind it.
        assert found.count("Add") == degree + (high is not None)


def test_one_quantizer_is_left_by_which_openvino_sees_that_a_model_is_quantized():
    source = ops.parameter([1, 4, 96, 96], np.float32)
    results = []
    for _ in range(2):
        bounds = [ops.constant(np.float32(each)) for each in (0.0, 4.0)]
        results.append(ops.fake_quantize(ops.multiply(source, ops.sigmoid(source)), *bounds, *bounds, 256))
    model = ov.Model(results, [source])
    assert swish.use_polynomial(ov, model) == 2
    assert [node.get_type_name() for node in model.get_ordered_ops()].count("FakeQuantize") == 1


def network(path, spatial=96, gate_first=False, open_side=False):
    """x -> 1x1 convolution -> swish -> 1x1 convolution, and the swish of each channel's mean."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(4, 4, 1, 1)).astype(np.float32) for name in ("w0", "w1")}
    product = ["s0", "c0"] if gate_first else ["c0", "s0"]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "conv0"),
        helper.make_node("Sigmoid", ["c0"], ["s0"]),
        helper.make_node("Mul", product, ["a0"], "act0"),
        helper.make_node("Conv", ["a0", "w1"], ["y"], "conv1"),
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Sigmoid", ["p"], ["s1"]),
        helper.make_node("Mul", ["p", "s1"], ["z"], "act1"),
        helper.make_node("Mul", ["y", "s1"], ["gated"], "gate"),  # a gate of another tensor: no swish
    ]
    side = "side" if open_side else spatial
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, side, side])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("z", "gated")]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def kinds(folder):
    return [node.get_type_name() for node in ov.Core().read_model(folder / "engine.xml").get_ordered_ops()]


@pytest.fixture
def sixteen_bits(monkeypatch):
    """Allows FP16 engines on any CPU, with float32's accuracy."""
    monkeypatch.setattr(float_parts, "precision_hint", lambda capabilities, precision: "f32")


@pytest.mark.parametrize("gate_first", [False, True])
def test_the_swish_of_an_image_becomes_the_polynomial_and_that_of_few_numbers_stays(tmp_path, sixteen_bits, gate_first):
    path = network(tmp_path / "net.onnx", gate_first=gate_first)
    manifest = built(path, tmp_path / "engine", "fp16", swish="polynomial")
    assert manifest["swish"] == {"form": "polynomial", "error": swish.FINEST.error, "ratio": None}
    found = kinds(tmp_path / "engine")
    assert found.count("Sigmoid") == 1 and found.count("Relu") == 1
    x = np.random.default_rng(1).normal(size=(1, 4, 96, 96)).astype(np.float32)
    built(path, tmp_path / "exact", "fp16", swish="exact")
    assert kinds(tmp_path / "exact").count("Sigmoid") == 2
    polynomial, reference = (Runner(tmp_path / name)({"x": x}) for name in ("engine", "exact"))
    for name in ("z", "gated"):
        difference = np.abs(polynomial[name] - reference[name]).max()
        assert 0 < difference < 0.01


@pytest.mark.parametrize(("ratio", "form"), [(0.8, "polynomial"), (0.99, "exact"), (1.2, "exact"), (None, "exact")])
def test_the_faster_form_is_taken_and_the_manifest_says_by_how_much(
    tmp_path, monkeypatch, capsys, sixteen_bits, ratio, form
):
    monkeypatch.setattr(race, "time_ratio", lambda first, second: ratio)
    manifest = built(network(tmp_path / "net.onnx"), tmp_path / "engine", "fp16")
    assert manifest["swish"] == {
        "form": form,
        "error": swish.FINEST.error if form == "polynomial" else 0,
        "ratio": ratio,
    }
    assert ("Relu" in kinds(tmp_path / "engine")) == (form == "polynomial")
    said = capsys.readouterr().out
    assert "swish as a polynomial within 0.0064" in said if form == "polynomial" else "swish exact" in said
    assert ratio is None or f"{ratio:.2f} times as long" in said


def test_fp32_has_exact_swish_and_a_network_without_any_says_nothing(tmp_path):
    assert "swish" not in built(network(tmp_path / "net.onnx"), tmp_path / "fp32", "fp32")
    assert kinds(tmp_path / "fp32").count("Sigmoid") == 2
    assert "swish" not in built(
        graphs.quantized_concat(tmp_path / "concat.onnx", zero=0),
        tmp_path / "plain",
        swish="polynomial",
    )
    with pytest.raises(UserError, match="--swish polynomial is for fp16 and int8 engines of target cpu"):
        built(network(tmp_path / "net.onnx"), tmp_path / "refused", "fp32", swish="polynomial")


def test_compiled_models_are_raced(monkeypatch):
    monkeypatch.setattr(comparison, "time_ratio", lambda first, second: (first(), second()))
    racers = [
        SimpleNamespace(inputs=[], create_infer_request=lambda name=name: SimpleNamespace(infer=lambda feeds: name))
        for name in ("first", "second")
    ]
    assert race.time_ratio(*racers) == ("first", "second")


def test_inputs_are_synthetic_unless_a_side_is_open(tmp_path):
    core = ov.Core()
    fixed = core.compile_model(core.read_model(network(tmp_path / "net.onnx")), "CPU")
    assert {index: array.shape for index, array in race.synthetic_inputs(fixed).items()} == {0: (1, 4, 96, 96)}
    model = core.read_model(network(tmp_path / "open.onnx", open_side=True))
    assert swish.use_polynomial(ov, model) == 1
    opened = core.compile_model(model, "CPU")
    assert race.synthetic_inputs(opened) is None and race.time_ratio(opened, opened) is None


@pytest.mark.parametrize(("spatial", "found"), [(90, 0), (91, 1)])  # of 4 channels: 32400 and 33124 numbers
def test_what_few_numbers_are(tmp_path, spatial, found):
    model = ov.Core().read_model(network(tmp_path / "net.onnx", spatial=spatial))
    assert swish.use_polynomial(ov, model) == found
    model = ov.Core().read_model(network(tmp_path / "net.onnx", spatial=spatial))
    model.reshape({0: ov.PartialShape([-1, 4, spatial, spatial])})  # an open batch is no matter
    assert swish.use_polynomial(ov, model) == found
