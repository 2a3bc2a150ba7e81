"""Reads the precision of each convolution, as TensorRT-RTX built it, from the text in the plan.

A plan can be deserialized, and its engine inspected, only where there is a GPU. But TensorRT-RTX's compiler writes
its programs into the plan as text: tensors with their types, then operations with the names of their tensors and of
the ONNX layers that they came from. A convolution is a `corrltn`, whose first input is the data, or, if it is 1x1,
at times a `fully_connected`, whose first input is the weights; both inputs have one type:

    tensor={ ... name="conv0.1_7" ... type=int8 }
    corrltn={ name="conv0_U22" output={"..." } input={"conv0.1_7" ... } ... layers="[ONNX Layer: conv0]" }

The format is not documented (seen in TensorRT-RTX 1.7.1). A plan that does not look like this gives an empty result,
and the caller falls back on the typed network.
"""

import mmap
import re
from pathlib import Path
from typing import Dict, Set

PROGRAM = b"header {\n"
TENSOR = re.compile(rb'tensor=\{[^\n]*? name="([^"\n]+)"[^\n]*? type=(\w+) \}')
CONVOLUTION = re.compile(
    rb'\b(?:corrltn|fully_connected)=\{ name="[^"\n]*" output=\{[^}\n]*\} input=\{"([^"\n]+)"[^\n]*? layers="([^"]*)"'
)
ONNX_LAYER = re.compile(rb"\[ONNX Layer: ([^\]]+)\]")
PRECISION = {b"float": "f32", b"half": "f16", b"bfloat16": "bf16", b"int8": "int8", b"fp8_e4m3": "fp8"}


def convolution_precisions(plan: Path) -> Dict[str, Set[str]]:
    """Returns the precisions of each ONNX layer's multiplication: one for each GPU generation that the plan is for."""
    precisions: Dict[str, Set[str]] = {}
    with open(plan, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        starts = [match.start() for match in re.finditer(PROGRAM, data)]
        for start, end in zip(starts, [*starts[1:], len(data)]):
            types = {match[1]: match[2] for match in TENSOR.finditer(data, start, end)}
            for match in CONVOLUTION.finditer(data, start, end):
                kind = types.get(match[1], b"unknown")
                for layer in ONNX_LAYER.findall(match[2]):
                    precisions.setdefault(layer.decode(), set()).add(PRECISION.get(kind, kind.decode()))
    return precisions
