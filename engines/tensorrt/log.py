"""Writes TensorRT's messages to build.log, and puts its errors on one line that names the ONNX nodes meant.

In an error, TensorRT names a layer by its ONNX node, at times with a number appended ("nms_0") or with several names
joined ("Conv_3 + Relu_4", "{ForeignNode[a...b]}"); by the parser's stand-in for a node without a name
("node_of_<output>"); or, for a layer that the parser added, by its number in the network ("(Unnamed Layer* 12)
[Shuffle]"). The metadata of such a layer then names the node that it came from.
"""

import contextlib
import re
from itertools import chain
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple

from effedge.deploy.runtime.tensorrt.log import TensorRTLogger, tensorrt_logger
from effedge.engines.onnx_header import Header, Node
from effedge.engines.tensorrt.api import onnx_layers

LOG = "build.log"
SHOWN_ERRORS = 3
SOURCE_PREFIX = re.compile(r"^\[[^\]]*::\d+\] (Error Code \d+: )?")
# "insuficient" is how TensorRT 8.2 to 8.5 write it (NVIDIA/TensorRT#2035). That "some tactics do not have sufficient
# workspace memory" is said of builds that succeed too.
SHORT_OF_MEMORY = re.compile(r"insuf+icient (?:memory|workspace)|memory is insuf+icient|out ?of ?memory", re.IGNORECASE)
UNNAMED = re.compile(r"\(Unnamed Layer\* (\d+)\)")
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@contextlib.contextmanager
def logger_to_file(trt: Any, folder: Path) -> Iterator[TensorRTLogger]:
    """Has the logger write to `folder`/build.log within the block; it begins without errors."""
    logger = tensorrt_logger(trt)
    logger.forget()
    with open(folder / LOG, "w", encoding="utf-8", buffering=1) as logger.file:
        try:
            yield logger
        finally:
            logger.file = None


def explain(errors: Sequence[str], header: Optional[Header] = None, network: Any = None) -> str:
    """Joins the first few distinct errors to one line, without the file-and-line prefix of TensorRT's own sources; with
    the header, each behind the ONNX nodes that it names."""
    lines = list(dict.fromkeys(SOURCE_PREFIX.sub("", " ".join(error.split())) for error in errors))
    more = f" (and {len(lines) - SHOWN_ERRORS} more)" if len(lines) > SHOWN_ERRORS else ""
    shown = [with_nodes(line, header, network) if header else line for line in lines[:SHOWN_ERRORS]]
    return ("; ".join(shown) + more) if shown else "it gave no reason"


def memory_shortage(errors: Sequence[str], folder: Path) -> str:
    """Returns the first of the errors, or else of the lines of `folder`/build.log, that says that memory was short;
    empty if none does."""
    with open(folder / LOG, encoding="utf-8") as lines:
        shortages = (line for line in chain(errors, lines) if SHORT_OF_MEMORY.search(line))
        return SOURCE_PREFIX.sub("", re.sub(r"^[A-Z_]+: ", "", " ".join(next(shortages, "").split())))


def failing_nodes(error: str, header: Header, network: Any = None) -> List[str]:
    """Lists the names of the nodes of the layer in an error; of a ForeignNode, which names its first and its last, also
    those between them."""
    nodes = named_nodes(error, header, network)
    if "ForeignNode[" in error and nodes:
        positions = [header.nodes.index(node) for node in nodes]
        nodes = header.nodes[min(positions) : max(positions) + 1]
    return [node.name for node in nodes if node.name]


def with_nodes(line: str, header: Header, network: Any = None) -> str:
    """Puts the operators and names of the nodes in a line in front of it, if there are any."""
    nodes = named_nodes(line, header, network)
    if not nodes:
        return line
    first, last = nodes[0], nodes[-1]
    span = f"{first.op} '{parser_name(first)}'" + (f" to {last.op} '{parser_name(last)}'" if last is not first else "")
    return f"{span}: {line}"


def parser_name(node: Node) -> str:
    """Returns the name by which TensorRT's parser calls a node."""
    return node.name or f"node_of_{node.outputs[0]}"


def named_nodes(text: str, header: Header, network: Any = None) -> List[Node]:
    """Finds the nodes that a message names, in its order."""
    if network is not None:
        text = UNNAMED.sub(lambda match: layer_metadata(network, int(match[1])) or match[0], text)
    nodes = {parser_name(node): node for node in header.nodes}
    positions: List[Tuple[int, Node]] = [
        (match.start(), nodes[match[1]]) for match in ONNX_LAYER.finditer(text) if match[1] in nodes
    ]
    text = ONNX_LAYER.sub(lambda match: " " * len(match[0]), text)
    # Longer names first, so that "conv_1" is not taken for "conv". A short word or a number may have another meaning.
    for name in sorted((name for name in nodes if len(name) > 2 and not name.isdigit()), key=len, reverse=True):
        if name not in text:
            continue
        pattern = re.compile(rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?:_\d+)?(?![\w/]|\.\w)")
        positions += [(match.start(), nodes[name]) for match in pattern.finditer(text)]
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return list(dict.fromkeys(node for _, node in sorted(positions, key=lambda item: item[0])))


def layer_metadata(network: Any, index: int) -> str:
    """Returns the metadata of a layer of the network; empty if there is no such layer."""
    return onnx_layers(network.get_layer(index)) if index < network.num_layers else ""
