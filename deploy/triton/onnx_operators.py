"""Lists the operators of an ONNX model, wherever in the model a node is. The numbers are those of onnx.proto3."""

import mmap
from pathlib import Path
from typing import List, Set, Tuple

from effedge.deploy.common.protobuf import Span, fields
from effedge.deploy.runtime.onnx_external import ATTRIBUTE, FUNCTION, GRAPH, MESSAGES, MODEL, NODE

OPERATOR = 4  # field of NODE


def operators(path: Path) -> Set[str]:
    """Returns the operators' names. Raises ValueError or IndexError for a file that is no whole ONNX model."""
    names: Set[str] = set()
    with open(str(path), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        waiting: List[Tuple[int, Span]] = [(MODEL, (0, len(data)))]
        while waiting:
            kind, span = waiting.pop()
            for number, value in fields(data, span):
                inner = MESSAGES[kind].get(number)
                if inner in (GRAPH, FUNCTION, NODE, ATTRIBUTE):
                    waiting.append((inner, value))
                elif kind == NODE and number == OPERATOR:
                    names.add(data[slice(*value)].decode("utf-8", "replace"))
    return names
