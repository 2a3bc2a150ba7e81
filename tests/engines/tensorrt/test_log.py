"""Tests build.log, and the ONNX nodes of an error, with messages as TensorRT 8, 10 and TensorRT-RTX write them."""

from types import SimpleNamespace

import pytest

from effedge.deploy.runtime.tensorrt.log import tensorrt_logger
from effedge.engines.onnx_header import Header, Node
from effedge.engines.tensorrt.log import explain, logger_to_file
from tests.deploy.fake_tensorrt import LogLevel, fake_tensorrt


def header(*named):
    nodes = [Node(op, name, ("x",), (output,)) for op, name, output in named]
    return Header(18, {}, None, nodes, {}, {}, {}, ())


MODEL = header(
    ("Conv", "/stem/Conv", "a"),
    ("Conv", "/stem/Conv_1", "b"),
    ("TopK", "topk", "values"),
    ("NonMaxSuppression", "nms", "kept"),
    ("Mul", "", "scaled"),
    ("Shape", "1", "s"),
    ("Gather", "315", "g"),
)
NO_KERNEL = "Error Code 10: Internal Error (Could not find any implementation for node {}.)"


@pytest.mark.parametrize(
    ("message", "beginning"),
    [
        # TensorRT-RTX 1.7, which counts behind the name
        (
            "[t.cpp::get::48] Error Code 2: Internal Error (nms_0 has no runners that implement it)",
            "NonMaxSuppression 'nms': Internal",
        ),
        # TensorRT 10: one layer, a fused one from its first to its last, and a longer name that contains another
        ("[o.cpp::computeCosts::3826] " + NO_KERNEL.format("/stem/Conv"), "Conv '/stem/Conv': Internal"),
        ("[o.cpp::computeCosts::3826] " + NO_KERNEL.format("/stem/Conv_1"), "Conv '/stem/Conv_1': Internal"),
        (NO_KERNEL.format("{ForeignNode[/stem/Conv_1...topk]}"), "Conv '/stem/Conv_1' to TopK 'topk': Error"),
        (NO_KERNEL.format("w + /stem/Conv + PWN(/stem/Conv_1)"), "Conv '/stem/Conv' to Conv '/stem/Conv_1': Error"),
        # a node without a name, as the parser calls it, and metadata
        ("ITensor::getDimensions: Error Code 4: node_of_scaled: broadcast", "Mul 'node_of_scaled': ITensor"),
        ("Skipping tactic [ONNX Layer: 1]", "Shape '1': Skipping"),
        # nothing to name: numbers and longer words are no nodes
        ("Error Code 1: Cuda Runtime (status 315, out of memory), topkernel, retopk, x/topk", "Error Code 1"),
    ],
)  # fmt: skip
def test_an_error_begins_with_the_nodes_that_it_names(message, beginning):
    told = explain([message], MODEL)
    assert told.startswith(beginning)
    assert "::" not in told.replace("ITensor::", "").replace("::getDim", "")


def test_a_layer_without_a_name_is_looked_up_in_the_network():
    layers = [SimpleNamespace(metadata=""), SimpleNamespace(metadata="[ONNX Layer: topk]")]
    network = SimpleNamespace(num_layers=2, get_layer=layers.__getitem__)
    message = "Error Code 4: (Unnamed Layer* {}) [Shuffle]: volume mismatch"
    assert explain([message.format(1)], MODEL, network).startswith("TopK 'topk': Error Code 4: (Unnamed Layer* 1)")
    assert explain([message.format(0)], MODEL, network) == message.format(0)
    assert explain([message.format(7)], MODEL, network) == message.format(7)
    old = SimpleNamespace(num_layers=2, get_layer=lambda index: SimpleNamespace(name="shuffle"))  # before 8.6
    assert explain([message.format(1)], MODEL, old) == message.format(1)


def test_many_errors_are_one_line():
    told = explain(["one\ntwo", "one two", "three", "four", "five"], MODEL)
    assert told == "one two; three; four (and 1 more)"
    assert explain([], MODEL) == "it gave no reason"


def test_the_log_is_written_as_it_comes_without_what_is_verbose(tmp_path):
    module = fake_tensorrt(None)
    with logger_to_file(module, tmp_path) as logger:
        for level in LogLevel:
            logger.log(level, f"some {level.name.lower()}")
        written = (tmp_path / "build.log").read_text()  # before the end: a build may be killed
    assert written == "INTERNAL_ERROR: some internal_error\nERROR: some error\nWARNING: some warning\nINFO: some info\n"
    assert (logger.errors, logger.warnings) == (["some internal_error", "some error"], ["some warning"])
    logger.log(LogLevel.ERROR, "later")  # TensorRT keeps the logger
    assert (tmp_path / "build.log").read_text() == written
    with logger_to_file(module, tmp_path) as again:
        assert again is logger and not logger.errors


def test_engines_that_are_run_report_to_the_logger_of_the_builds(tmp_path):
    """With BY_LATENCY a process builds and runs alternately, and TensorRT keeps the first logger that it is given."""
    module = fake_tensorrt(None)
    with logger_to_file(module, tmp_path) as logger:
        pass
    assert tensorrt_logger(module) is logger
