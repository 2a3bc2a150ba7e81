"""Lists the files beside an ONNX model that hold its weights, wherever in the model they are named.

A tensor is an initializer, or an attribute's; of the graph, of a graph within a node (If, Loop), or of a function. The
numbers are those of onnx.proto3.
"""

import mmap
from pathlib import Path
from typing import Dict, List, Mapping, Set, Tuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.protobuf import Span, fields

MODEL, TRAINING, GRAPH, FUNCTION, NODE, ATTRIBUTE, TENSOR, SPARSE, ENTRY = range(9)
# Of each message the fields that lead to tensors, with the message that each holds.
MESSAGES: Dict[int, Mapping[int, int]] = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    TRAINING: {1: GRAPH, 2: GRAPH},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {13: ENTRY},  # external_data, of StringStringEntry: 1 key, 2 value
}
LOCATION = b"location"


def external_files(path: Path) -> Set[str]:
    """Returns the names of the files that the ONNX model at `path` keeps tensors in, as the model says them.

    Raises UserError if the file cannot be read or is no whole ONNX model.
    """
    names: Set[str] = set()
    try:
        with open(str(path), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            waiting: List[Tuple[int, Span]] = [(MODEL, (0, len(data)))]
            while waiting:  # no recursion: graphs may be nested deeply
                kind, span = waiting.pop()
                if kind == ENTRY:
                    texts = [(number, data[slice(*text)]) for number, text in fields(data, span)]
                    if (1, LOCATION) in texts:
                        names |= {text.decode("utf-8", "surrogateescape") for number, text in texts if number == 2}
                else:
                    inner = MESSAGES[kind]
                    waiting += [(inner[number], value) for number, value in fields(data, span) if number in inner]
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"cannot load '{path}', which is no whole ONNX model ({error}): build the engine again here"
        ) from error
    return names
