"""Tests the constraints on layers, on networks that TensorRT-RTX's parser made, with the members of each version."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto

from effedge.calibration.tensorrt_cache import cache_text
from effedge.engines.build_options import BuildOptions
from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.engines.tensorrt import api, layer_precision
from effedge.engines.tensorrt.builder import configure_layers
from effedge.engines.tensorrt.float32_nodes import BEHIND, SUM
from effedge.engines.tensorrt.layer_precision import describe, keep_float32, keep_half, layers_of_nodes
from tests.calibration import networks
from tests.engines import graphs
from tests.engines.tensorrt_versions import LAYER, VERSIONS, Config, Member, network_of, tensorrt

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
WITH_CONSTRAINTS = [version for version in VERSIONS if version != "11.1"]


@pytest.fixture
def parsed():
    """A function from an ONNX to TensorRT-RTX's network of it."""
    logger = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(logger)
    alive = []

    def parse(path):
        network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = rtx.OnnxParser(network, logger)
        assert parser.parse_from_file(str(path)), [parser.get_error(at).desc() for at in range(parser.num_errors)]
        alive.append((network, parser))
        return network

    yield parse
    alive.clear()


def fixed(network, trt):
    """Layer -> (its precision, the types of its outputs), of the layers on which something was set."""
    layers = [network.get_layer(at) for at in range(network.num_layers)]
    return {
        layer.name: (layer.set.get("precision"), layer.set["outputs"])
        for layer in layers
        if "precision" in layer.set or layer.set["outputs"]
    }


@pytest.mark.parametrize("make", ["detector", "tail", "f32", "int8"])
def test_each_layer_belongs_to_the_node_that_its_metadata_names(parsed, prepared, tmp_path, make):
    path = networks.detector().save(tmp_path / "m.onnx") if make == "detector" else prepared(make)
    network, header = parsed(path), read_header(path)
    names = {node.outputs[0]: node.name for node in header.nodes}
    found = [(layer, names[tensor]) for _, layer, tensor in layers_of_nodes(network, header)]
    rest = [network.get_layer(at) for at in range(len(found), network.num_layers)]  # the K of a TopK at the end
    assert all(layer.get_output(0).dtype.name.startswith("INT") for layer in rest)
    named = [(layer.metadata, name) for layer, name in found if "ONNX Layer" in layer.metadata]
    for metadata, name in named:
        assert metadata == f"[ONNX Layer: {name}]"
    assert len(named) > 6


@pytest.mark.parametrize("version", WITH_CONSTRAINTS)
def test_behind_the_heads_floats_are_fp32_and_integers_are_left_alone(parsed, tmp_path, version):
    path, trt = networks.detector().save(tmp_path / "m.onnx"), tensorrt(version)
    network = network_of(version, parsed(path), trt)
    constrained = keep_float32(trt, network, read_header(path))
    found, single = fixed(network, trt), trt.DataType.FLOAT
    assert Counter(constrained.values())[SUM] == 1 and set(constrained.values()) == {BEHIND, SUM}
    assert len(found) == len(constrained)
    assert found["topk"] == (single, {0: single}), "TopK's indices are INT32 whatever is set"
    assert {"scores", "boxes"} <= {name.split("_")[0] for name in found}
    assert not {"classes_conv", "boxes_conv", "best"} & set(found)
    for at in constrained:
        layer = network.get_layer(at)
        kinds = [layer.get_output(index).dtype for index in layer.set["outputs"]]
        assert set(kinds) <= {single} and layer.type.name not in layer_precision.FIXED


@pytest.mark.parametrize("version", WITH_CONSTRAINTS)
def test_means_over_a_map_are_fp32_unless_a_dla_takes_them(parsed, tmp_path, version):
    path, trt = networks.classifier().save(tmp_path / "m.onnx"), tensorrt(version)
    header, real = read_header(path), parsed(path)
    network = network_of(version, real, trt)
    constrained = keep_float32(trt, network, header)
    assert Counter(constrained.values()) == {SUM: 3}
    assert describe(constrained) == "3 sums over a map"
    network = network_of(version, real, trt)
    assert keep_float32(trt, network, header, on_dla=range(network.num_layers)) == {} == fixed(network, trt)


def test_indices_that_are_floats_on_the_way_stay_in_fp32(parsed, tmp_path):
    """Cast to float, product, Cast to integer, as TensorRT 8 may compute in FP16: all three are constrained."""
    graph, shape = graphs.Graph(), [1, 100]
    graph.add("Conv", ["x", graph.constant("weight", np.ones((1, 1, 1, 1), np.float32))], "conv")
    number = graph.add("Cast", ["pairs"], "number", to=TensorProto.FLOAT)
    product = graph.add("Mul", [number, graph.constant("factor", np.float32(1 / 90))], "product")
    graph.add("Cast", [product], "rank", to=TensorProto.INT64)
    path = graph.save(
        tmp_path / "m.onnx", [("x", 1, [1, 1, 4, 4]), ("pairs", 7, shape)],
        [("conv_out", 1, [1, 1, 4, 4]), ("rank_out", 7, shape)], {},
    )  # fmt: skip
    trt = tensorrt("8.5")
    network = network_of("8.5", parsed(path), trt)
    keep_float32(trt, network, read_header(path))
    single = trt.DataType.FLOAT
    found = fixed(network, trt)
    assert found["number"] == (None, {0: single}) and found["product"] == (single, {0: single})
    assert found["rank"] == (single, {}) and "conv" not in found


def test_a_comparison_and_a_layer_on_shapes_have_no_precision_of_their_own():
    trt = tensorrt("8.6")

    def layer(kind, shape=False):
        tensors = [SimpleNamespace(dtype=one, is_shape_tensor=shape) for one in (trt.DataType.FLOAT, kind)]
        return Member(
            LAYER["8.6"], name="x", type=SimpleNamespace(name="ELEMENTWISE"), num_inputs=1, num_outputs=1,
            get_input=lambda index: tensors[0], get_output=lambda index: tensors[1],
            set_output_type=lambda *arguments: pytest.fail("set"),
        )  # fmt: skip

    for one in (layer(trt.DataType.BOOL), layer(trt.DataType.FLOAT, shape=True)):
        assert not layer_precision.constrain(trt, one, trt.DataType.FLOAT) and one.set == {}


def test_layers_that_the_calibration_keeps_out_of_int8_are_fp16_and_the_outputs_stay(parsed, tmp_path):
    report = {"float_layers": {"conv0": "the first layer", "conv3": "sensitive"}}
    path = graphs.network(tmp_path / "m.onnx", metadata={"effedge_calibration": report})
    trt = tensorrt("8.5")
    network = network_of("8.5", parsed(path), trt)
    assert keep_half(trt, network, read_header(path)) == 2
    assert fixed(network, trt) == {"conv0": (trt.DataType.HALF, {}), "conv3": (trt.DataType.HALF, {})}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_without_constraints_or_ranges_fails_loudly(version):
    """TensorRT 11's networks are typed: nothing may set a precision there, and nothing does."""
    trt = tensorrt(version)
    assert hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS") == (version in WITH_CONSTRAINTS)
    layer = Member(LAYER[version], name="x")
    if version in WITH_CONSTRAINTS:
        api.set_layer_precision(layer, trt.DataType.FLOAT)
        assert layer.set == {"precision": trt.DataType.FLOAT}
    else:
        with pytest.raises(AttributeError):
            api.set_layer_precision(layer, trt.DataType.FLOAT)


FLOAT_LAYERS = {"effedge_calibration": {"float_layers": {"conv0": "the first layer"}}}


def configured(version, parsed, path, dla="", ranges=None, on_dla=lambda layer: True):
    """What builder.configure_layers does for INT8 by ranges, or FP16: its entries, the network, the config's calls."""

    class Board(Config):
        def can_run_on_DLA(self, layer):  # noqa: N802
            return on_dla(layer)

    trt, config = tensorrt(version), Board(version)
    network = network_of(version, parsed(path), trt)
    request = BuildRequest(
        path, read_header(path), "int8" if ranges else "fp16", TARGETS["jetson-orin"], BuildOptions(dla=dla), ranges
    )
    typed = api.is_typed(trt, TARGETS["jetson-orin"] if dla else TARGETS["jetson-xavier"], dla)
    entries = configure_layers(trt, SimpleNamespace(num_DLA_cores=1), config, network, request, typed)
    calls = [(name, getattr(first, "name", first)) for name, first, *_ in config.calls]
    return entries, network, calls, trt


@pytest.mark.parametrize("version", ["8.2", "8.5", "8.6"])
def test_fp16_by_flags_is_built_with_binding_constraints(parsed, tmp_path, version):
    path = networks.detector().save(tmp_path / "m.onnx")
    entries, network, calls, trt = configured(version, parsed, path)
    assert entries == {"float32_layers": len(fixed(network, trt))} and entries["float32_layers"] > 3
    assert calls == [("set_flag", "OBEY_PRECISION_CONSTRAINTS")]


@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3"])
def test_int8_on_a_dla_has_ranges_layers_in_fp16_and_a_tail_on_the_gpu(parsed, tmp_path, version):
    path = graphs.network(tmp_path / "m.onnx", metadata=FLOAT_LAYERS)
    cache = tmp_path / "c.cache"
    cache.write_text(cache_text({"transpose_out": 255.0, "conv1_out": 8.0, "silu1_out": 7.5}, 8502))
    entries, network, calls, trt = configured(
        version, parsed, path, "fallback", cache, on_dla=lambda layer: layer.name != "cast"
    )
    ranges = {name: tensor.set["dynamic_range"][1] for name, tensor in network.tensors.items() if tensor.set}
    assert ranges == pytest.approx({"transpose_out": 255.0, "conv1_out": 8.0, "silu1_out": 7.5}, rel=1e-6)
    found = fixed(network, trt)
    assert found.pop("conv0") == (trt.DataType.HALF, {})
    behind = {"sigmoid3": "activation", "silu3": "elementwise", "pool": "reduce", "flatten": "shuffle"}
    assert set(found) == set(behind) and entries["float32_layers"] == len(behind)
    assert entries["dla"] == {
        "core": 0, "mode": "fallback",
        "on_gpu": [{"name": name, "type": kind} for name, kind in {"cast": "cast", **behind}.items()],
    }  # fmt: skip
    assert ("set_flag", "GPU_FALLBACK") in calls and ("set_flag", "OBEY_PRECISION_CONSTRAINTS") in calls
    assert [name for call, name in calls if call == "set_device_type"] == list(behind)


def test_a_network_for_the_dla_alone_has_no_fp32(parsed, prepared):
    entries, network, calls, trt = configured("8.6", parsed, prepared("f32"), dla="only")
    assert fixed(network, trt) == {} and entries["float32_layers"] == 0 and entries["dla"]["on_gpu"] == []
    assert calls == []


def test_tensorrt_11_is_asked_for_no_precision(parsed, prepared):
    entries, network, calls, trt = configured("11.1", parsed, prepared("f32"), dla="fallback")
    assert fixed(network, trt) == {} and "float32_layers" not in entries and calls == [("set_flag", "GPU_FALLBACK")]
