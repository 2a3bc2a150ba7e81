"""Tests the reader of the engine inspector's JSON in the forms of TensorRT 8 (names), 10 (metadata) and 11 (split)."""

import json

import pytest

from effedge.engines.manifest import Layer
from effedge.engines.onnx_header import Header, Node
from effedge.engines.tensorrt.inspector import inspected_layers


def header(*convolutions):
    return Header(
        18, {}, None, [Node("Conv", name, ("x", "w"), (f"{name}_out",)) for name in convolutions], {}, {}, {}, ()
    )


def told(*entries):
    return json.dumps({"Layers": list(entries), "Bindings": ["image"]})


def entry(name, kind, words, tactic="", **more):
    """In TensorRT 8's and 10's form."""
    made = {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "in", "Format/Datatype": words}],
        "Outputs": [],
        **more,
    }
    return {**made, "TacticName": tactic} if tactic else made


# NVIDIA's own example of a quantized MobileNet (tools/experimental/trt-engine-explorer/tests/inputs), cut short.
MOBILENET = told(
    entry("QuantizeLinear_2", "Reformat", "Row major linear FP32", ParameterType="Reformat"),
    entry(
        "features.0.0.weight + QuantizeLinear_8 + Conv_12 + PWN(Clip_16)", "CaskConvolution",
        "Four wide channel vectorized row major Int8 format", "volta_int8x4_icudnn_v1", ParameterType="Convolution",
    ),
    entry(
        "features.1.conv.0.0.weight + QuantizeLinear_25 + Conv_29 + PWN(Clip_33)", "CudaDepthwiseConvolution",
        "Thirty-two wide channel vectorized row major Int8 format", ParameterType="Convolution", TacticValue="0x3d",
    ),
    entry(
        "Reformatting CopyNode for Input Tensor 0 to Conv_46", "Reformat",
        "Channel major FP16 format where channel % 8 == 0",
    ),
    entry(
        "w + Conv_46", "CaskConvolution", "Two wide channel vectorized row major FP16 format",
        ParameterType="Convolution",
    ),
    entry("(Unnamed Layer* 850) [ElementWise]", "NoOp", "Row major linear FP32"),
)  # fmt: skip


def test_a_layer_of_tensorrt_8_is_known_by_the_names_in_its_own():
    layers = inspected_layers(MOBILENET, header("Conv_12", "Conv_29", "Conv_46", "Conv_4"))
    assert layers == [
        Layer("Conv_12", "convolution", "int8", "volta_int8x4_icudnn_v1"),
        Layer("Conv_29", "convolution", "int8", "0x3d"),
        Layer("Conv_46", "convolution", "f16"),
        Layer("QuantizeLinear_2", "reformat", "f32"),
        Layer("Reformatting CopyNode for Input Tensor 0 to Conv_46", "reformat", "f16"),
    ]


def test_metadata_says_which_nodes_a_layer_of_tensorrt_10_holds():
    """A kernel that only touches a convolution's tensors does not decide its precision."""
    both = "[ONNX Layer: /a/Conv]\x1e[ONNX Layer: /a/Mul]"
    layers = inspected_layers(
        told(
            entry("__myl_MulSigm", "kgen", "Half", "__myl_MulSigm_0x1", Metadata=both),
            entry("/a/Conv_myl0_3", "gemm", "Int8", "sm87_xmma_gemm_i8", Metadata=both),
        ),
        header("/a/Conv"),
    )
    assert layers == [Layer("/a/Conv", "convolution", "int8", "sm87_xmma_gemm_i8")]


def test_type_and_format_of_tensorrt_11_are_apart():
    made = {"Name": "c", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv0]"}
    made["Inputs"] = [{"Name": "in", "DataType": "BFloat16", "Format": "Channel major (kHWC8)"}]
    assert inspected_layers(told(made), header("conv0")) == [Layer("conv0", "convolution", "bf16")]


@pytest.mark.parametrize(
    "information", ["", "not json", "{}", "[]", json.dumps({"Layers": ["Conv_12 + Relu_1"]})]
)  # the last: a plan built without details has only names
def test_what_says_nothing_gives_nothing(information):
    assert inspected_layers(information, header("Conv_12")) == []


def test_a_precision_without_words_is_unknown():
    assert inspected_layers(told({"Name": "Conv_12", "LayerType": "CaskConvolution"}), header("Conv_12")) == [
        Layer("Conv_12", "convolution", "unknown")
    ]
