"""Lists the operators of an ONNX model that read what a Pad writes. The numbers are those of onnx.proto3."""

import mmap
from pathlib import Path
from typing import Dict, List, Set, Tuple

from effedge.deploy.common.protobuf import Span, fields
from effedge.deploy.runtime.onnx_external import ATTRIBUTE, FUNCTION, GRAPH, MESSAGES, MODEL, NODE

INPUT, OUTPUT, OPERATOR = 1, 2, 4  # fields of NODE


def padded_operators(path: Path) -> Set[str]:
    """Returns the operators' names, wherever in the model they are. Raises ValueError or IndexError for a file that is
    no whole ONNX model."""
    padded: Set[str] = set()
    readers: Dict[str, Set[str]] = {}
    with open(str(path), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        waiting: List[Tuple[int, Span]] = [(MODEL, (0, len(data)))]
        while waiting:
            kind, span = waiting.pop()
            texts: Dict[int, List[str]] = {INPUT: [], OUTPUT: [], OPERATOR: []}
            for number, value in fields(data, span):
                inner = MESSAGES[kind].get(number)
                if inner in (GRAPH, FUNCTION, NODE, ATTRIBUTE):
                    waiting.append((inner, value))
                elif kind == NODE and number in texts:
                    texts[number].append(data[slice(*value)].decode("utf-8", "replace"))
            for name in texts[INPUT]:
                readers.setdefault(name, set()).update(texts[OPERATOR])
            if texts[OPERATOR] == ["Pad"]:
                padded.update(texts[OUTPUT])
    return {operator for name in padded for operator in readers.get(name, ())}
