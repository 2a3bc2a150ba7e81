"""What TensorRT chose, layer by layer: precision and kernel ("tactic"), out of its engine inspector's JSON.

A plan can be inspected where it can be loaded: on the GPU that it is for. Its layers are not the ONNX's: one may hold
several nodes. Which, its "Metadata" says ("[ONNX Layer: a]", TensorRT 8.6 and later), before that its name
("weight + QuantizeLinear_8 + Conv_12 + PWN(Clip_16)"). Its precision is that of its first input, from "Format/Datatype"
("Thirty-two wide channel vectorized row major Int8 format", "Half"), which TensorRT 11 splits in two.

Format as in the examples of NVIDIA's Engine Explorer (tools/experimental/trt-engine-explorer of its repository, whose
activations.py lists the words) and the migration guide to 11. Untested on a GPU.
"""

import json
import re
from typing import Any, Dict, List, Tuple

from effedge.engines.manifest import UNKNOWN, Layer
from effedge.engines.onnx_header import Header
from effedge.engines.tensorrt.log import named_nodes

# The types among the words of a format, those that contain others first.
TYPES = {
    "BFLOAT16": "bf16", "BF16": "bf16", "FP16": "f16", "HALF": "f16", "FP32": "f32", "FLOAT": "f32", "UINT8": "u8",
    "INT8": "int8", "FP8": "fp8", "INT32": "i32", "INT64": "i64", "BOOL": "bool",
}  # fmt: skip
WORDS = re.compile("|".join(rf"\b{word}\b" for word in TYPES), re.IGNORECASE)
NO_WORK = ("Reformat", "NoOp")  # named after the convolution that they stand before
MULTIPLYING = ("conv", "corr", "gemm")


def inspected_layers(information: str, header: Header) -> List[Layer]:
    """The layers of an engine. A convolution has its ONNX node's name and type, as many as a layer holds.

    Args:
        information: what `get_engine_information` gave.

    Nothing where that holds no details.
    """
    try:
        entries = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    if not all(isinstance(entry, dict) for entry in entries):  # of a plan that was built without details: names only
        return []
    others: List[Layer] = []
    convolutions: Dict[str, Tuple[bool, Layer]] = {}  # name -> (whether the layer is one, not only beside it)
    for entry in entries:
        name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
        tactic = str(entry.get("TacticName") or entry.get("TacticValue") or "")
        text = "" if kind in NO_WORK else f"{entry.get('Metadata', '')} {name}"
        held = [node.name for node in named_nodes(text, header) if node.op == "Conv"]
        multiplies = any(word in f"{kind} {entry.get('ParameterType', '')}".lower() for word in MULTIPLYING)
        for one in held:
            if one not in convolutions or multiplies and not convolutions[one][0]:
                convolutions[one] = multiplies, Layer(one, "convolution", precision(entry), tactic)
        if not held and kind != "NoOp":
            others.append(Layer(name, kind.lower(), precision(entry), tactic))
    return [layer for _, layer in convolutions.values()] + others


def precision(entry: Dict[str, Any]) -> str:
    """That of the layer's first input, where the format's words say it."""
    first: Dict[str, Any] = next(iter(entry.get("Inputs") or ()), {})
    words = [str(first.get(key, "")) for key in ("Format/Datatype", "DataType", "Format")]
    match = WORDS.search(" ".join(words))
    return TYPES[match[0].upper()] if match else UNKNOWN
