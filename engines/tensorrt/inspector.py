"""Reads each layer's precision and kernel ("tactic") from the JSON of TensorRT's engine inspector.

A plan can be inspected where it can be loaded: on the GPU that it is for. Its layers are not the ONNX's: a layer may
hold several nodes. Its "Metadata" names them ("[ONNX Layer: a]", TensorRT 8.6 and later); before 8.6, its name does
("weight + QuantizeLinear_8 + Conv_12 + PWN(Clip_16)"). The precision of a layer is that of its first input, from
"Format/Datatype" ("Thirty-two wide channel vectorized row major Int8 format", "Half"), which TensorRT 11 splits in two.

Format as in the examples of NVIDIA's Engine Explorer (tools/experimental/trt-engine-explorer of its repository, whose
activations.py lists the words) and the migration guide to 11. Untested on a GPU.
"""

import json
import re
from typing import Any, Dict, List, Tuple

from effedge.engines.manifest import UNKNOWN, Layer
from effedge.engines.onnx_header import Header
from effedge.engines.tensorrt.log import named_nodes

# The types among the words of a format; a type that contains another one comes first.
TYPES = {
    "BFLOAT16": "bf16", "BF16": "bf16", "FP16": "f16", "HALF": "f16", "FP32": "f32", "FLOAT": "f32", "UINT8": "u8",
    "INT8": "int8", "FP8": "fp8", "INT32": "i32", "INT64": "i64", "BOOL": "bool",
}  # fmt: skip
WORDS = re.compile("|".join(rf"\b{word}\b" for word in TYPES), re.IGNORECASE)
NO_WORK = ("Reformat", "NoOp")  # named after the convolution behind them
MULTIPLYING = ("conv", "corr", "gemm")


def inspected_layers(information: str, header: Header) -> List[Layer]:
    """Lists the layers of an engine; one that holds convolutions is listed once for each, with the ONNX node's name.

    Args:
        information: the JSON of `get_engine_information`. Without details the list is empty.
    """
    try:
        entries = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    if not all(isinstance(entry, dict) for entry in entries):  # only names: the plan was built without details
        return []
    others: List[Layer] = []
    convolutions: Dict[str, Tuple[bool, Layer]] = {}  # name -> (does the layer multiply, or only touch it?)
    for entry in entries:
        name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
        tactic = str(entry.get("TacticName") or entry.get("TacticValue") or "")
        text = "" if kind in NO_WORK else f"{entry.get('Metadata', '')} {name}"
        names = [node.name for node in named_nodes(text, header) if node.op == "Conv"]
        multiplies = any(word in f"{kind} {entry.get('ParameterType', '')}".lower() for word in MULTIPLYING)
        for convolution in names:
            if convolution not in convolutions or multiplies and not convolutions[convolution][0]:
                layer = Layer(convolution, "convolution", input_precision(entry), tactic)
                convolutions[convolution] = multiplies, layer
        if not names and kind != "NoOp":
            others.append(Layer(name, kind.lower(), input_precision(entry), tactic))
    return [layer for _, layer in convolutions.values()] + others


def input_precision(entry: Dict[str, Any]) -> str:
    """Returns the precision of the layer's first input; UNKNOWN where the words of its format do not say it."""
    first: Dict[str, Any] = next(iter(entry.get("Inputs") or ()), {})
    words = [str(first.get(key, "")) for key in ("Format/Datatype", "DataType", "Format")]
    match = WORDS.search(" ".join(words))
    return TYPES[match[0].upper()] if match else UNKNOWN
