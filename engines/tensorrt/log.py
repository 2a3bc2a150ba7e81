"""What TensorRT says while it builds: kept in build.log, and its errors on one line that names the ONNX nodes meant.

A layer's name in an error is that of the ONNX node, at times with a number behind it ("nms_0"), several joined
("Conv_3 + Relu_4", "{ForeignNode[a...b]}"), the parser's stand-in for a node without a name ("node_of_<output>"), or,
for a layer that the parser added, its number in the network ("(Unnamed Layer* 12) [Shuffle]"), whose metadata then says
which node it came from.
"""

import contextlib
import functools
import re
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, TextIO, Tuple

from effedge.engines.onnx_header import Header, Node
from effedge.engines.tensorrt.api import onnx_layers

LOG = "build.log"
SHOWN_ERRORS = 3
SOURCE_PREFIX = re.compile(r"^\[[^\]]*::\d+\] (Error Code \d+: )?")
UNNAMED = re.compile(r"\(Unnamed Layer\* (\d+)\)")
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@functools.lru_cache(maxsize=None)
def logger(trt: Any) -> Any:
    """The process's one logger for a backend: TensorRT keeps the first that it is given, and outlives our objects."""

    class Log(trt.ILogger):
        file: Optional[TextIO] = None

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.forget()

        def forget(self) -> None:
            self.errors: List[str] = []
            self.warnings: List[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity == trt.ILogger.VERBOSE:  # every kernel that was tried: tens of megabytes
                return
            if self.file is not None:
                print(f"{severity.name}: {msg}", file=self.file)
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(msg)

    return Log()


@contextlib.contextmanager
def logged(trt: Any, folder: Path) -> Iterator[Any]:
    """The logger, which within the block writes to `folder`/build.log, and knows no errors yet."""
    log = logger(trt)
    log.forget()
    with open(folder / LOG, "w", encoding="utf-8", buffering=1) as log.file:
        try:
            yield log
        finally:
            log.file = None


def explain(errors: Sequence[str], header: Optional[Header] = None, network: Any = None) -> str:
    """The first few distinct errors on one line, each with the ONNX nodes that it speaks of, if the header is given,
    without the file-and-line prefix of TensorRT's own sources."""
    lines = list(dict.fromkeys(SOURCE_PREFIX.sub("", " ".join(error.split())) for error in errors))
    more = f" (and {len(lines) - SHOWN_ERRORS} more)" if len(lines) > SHOWN_ERRORS else ""
    told = [with_nodes(line, header, network) if header else line for line in lines[:SHOWN_ERRORS]]
    return ("; ".join(told) + more) if told else "it gave no reason"


def with_nodes(line: str, header: Header, network: Any = None) -> str:
    """The line behind the operators and names of the nodes in it, if there are any."""
    nodes = named_nodes(line, header, network)
    if not nodes:
        return line
    first, last = nodes[0], nodes[-1]
    span = f"{first.op} '{called(first)}'" + (f" to {last.op} '{called(last)}'" if last is not first else "")
    return f"{span}: {line}"


def called(node: Node) -> str:
    return node.name or f"node_of_{node.outputs[0]}"


def named_nodes(text: str, header: Header, network: Any = None) -> List[Node]:
    """The nodes that a message names, in its order."""
    if network is not None:
        text = UNNAMED.sub(lambda match: origin(network, int(match[1])) or match[0], text)
    known = {called(node): node for node in header.nodes}
    found: List[Tuple[int, Node]] = [
        (match.start(), known[match[1]]) for match in ONNX_LAYER.finditer(text) if match[1] in known
    ]
    text = ONNX_LAYER.sub(lambda match: " " * len(match[0]), text)
    # Longer names first, as "conv_1" must not be taken for "conv"; a short word or a number may be anything else.
    for name in sorted((one for one in known if len(one) > 2 and not one.isdigit()), key=len, reverse=True):
        if name not in text:
            continue
        pattern = re.compile(rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?:_\d+)?(?![\w/]|\.\w)")
        found += [(match.start(), known[name]) for match in pattern.finditer(text)]
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return list(dict.fromkeys(node for _, node in sorted(found, key=lambda one: one[0])))


def origin(network: Any, index: int) -> str:
    """The metadata of a layer of the network, empty if there is no such layer."""
    return onnx_layers(network.get_layer(index)) if index < network.num_layers else ""
