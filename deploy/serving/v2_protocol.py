"""Reads and writes the inference requests of KServe's v2 protocol (the Open Inference Protocol) over HTTP.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md, for the JSON; and
triton-inference-server/server, docs/protocol/extension_binary_data.md, for tensors as bytes behind it, whose length is
the header Inference-Header-Content-Length.
"""

import json
import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from effedge.deploy.common.strict_json import parse_json
from effedge.deploy.serving.refusal import Refusal

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]
DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
BYTES = "BYTES"  # texts or files, an array of `object`
DATATYPES = {**{dtype: datatype for datatype, dtype in DTYPES.items()}, "object": BYTES}
MOST_DIMENSIONS = 8


class Request(NamedTuple):
    """An inference request.

    id: the client's; it is in the response too.
    parameters: the request's own, without `binary_data_output`.
    inputs: arrays by name; of BYTES, arrays of `bytes`.
    outputs: whether each output that is asked for is wanted as bytes, by name; None: all outputs are asked for.
    binary: whether outputs are wanted as bytes where nothing else is said.
    """

    id: Optional[str]
    parameters: Dict[str, Any]
    inputs: Dict[str, np.ndarray]
    outputs: Optional[Dict[str, bool]]
    binary: bool


def parse_request(body: bytes, header_length: Optional[str]) -> Request:
    """Parses the body of an inference request; `header_length` is the header HEADER_LENGTH, if there is one.

    Raises Refusal (400) for a body that breaks the protocol.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isdecimal() and int(header_length) <= len(body)):
            raise Refusal(400, f"{HEADER_LENGTH} is {header_length!r:.40}, and the body has {len(body)} bytes")
        length = int(header_length)
    try:
        content = parse_json(body[:length])
    except ValueError as error:
        raise Refusal(400, f"the request is no JSON: {error}") from error
    fields = of_type(content, dict, "the request")
    parameters = dict(of_type(fields.get("parameters", {}), dict, "parameters"))
    binary = of_type(parameters.pop("binary_data_output", False), bool, "binary_data_output")
    rest = memoryview(body)[length:]
    inputs: Dict[str, np.ndarray] = {}
    for entry in of_type(fields.get("inputs"), list, "inputs"):
        name = of_type(of_type(entry, dict, "an input").get("name"), str, "an input's name")
        if name in inputs:
            raise Refusal(400, f"input '{name:.80}' is given twice")
        inputs[name], rest = parse_input(name, entry, rest)
    if len(rest):
        raise Refusal(400, f"{len(rest)} bytes are left behind the inputs: expected none")
    identity = fields.get("id")
    return Request(
        None if identity is None else of_type(identity, str, "id"),
        parameters,
        inputs,
        parse_outputs(fields.get("outputs"), binary),
        binary,
    )


def of_type(value: Any, kind: type, name: str) -> Any:
    """Returns `value`. Raises Refusal unless it is of the type."""
    if not isinstance(value, kind):
        kinds = {dict: "an object", list: "an array", str: "a text", bool: "true or false", int: "a whole number"}
        raise Refusal(400, f"{name:.80} is {json.dumps(value, default=str):.40}, expected {kinds[kind]}")
    return value


def parse_outputs(entries: Any, binary: bool) -> Optional[Dict[str, bool]]:
    """Parses the outputs that a request asks for."""
    if entries is None or entries == []:
        return None
    outputs = {}
    for entry in of_type(entries, list, "outputs"):
        name = of_type(of_type(entry, dict, "an output").get("name"), str, "an output's name")
        parameters = of_type(entry.get("parameters", {}), dict, "an output's parameters")
        outputs[name] = of_type(parameters.get("binary_data", binary), bool, "binary_data")
    return outputs


def parse_input(name: str, entry: Dict[str, Any], rest: memoryview) -> Tuple[np.ndarray, memoryview]:
    """Parses an input, whose binary data are the first of `rest`; returns what is left of these too."""
    what = f"input '{name:.80}'"
    datatype = of_type(entry.get("datatype"), str, f"the datatype of {what}")
    if datatype not in DTYPES and datatype != BYTES:
        raise Refusal(400, f"{what} is of datatype '{datatype:.40}', expected one of {', '.join([*DTYPES, BYTES])}")
    shape = of_type(entry.get("shape"), list, f"the shape of {what}")
    if len(shape) > MOST_DIMENSIONS or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise Refusal(400, f"the shape of {what} is {str(shape):.80}, expected up to {MOST_DIMENSIONS} whole numbers")
    parameters = of_type(entry.get("parameters", {}), dict, f"the parameters of {what}")
    if "binary_data_size" not in parameters:
        if "data" not in entry:
            raise Refusal(400, f"{what} has no data")
        return parse_numbers(what, entry["data"], datatype, shape), rest
    size = parameters["binary_data_size"]
    if "data" in entry or type(size) is not int or not 0 <= size <= len(rest):
        raise Refusal(
            400, f"{what} has a binary_data_size of {size!r:.40} and {len(rest)} bytes behind the JSON, "
            f"as the header {HEADER_LENGTH} says; expected as many bytes, and no data"
        )  # fmt: skip
    return parse_binary(what, bytes(rest[:size]), datatype, shape), rest[size:]


def parse_numbers(what: str, data: Any, datatype: str, shape: List[int]) -> np.ndarray:
    """Converts the JSON array of an input, flat or nested as its shape, to an array."""
    if datatype == BYTES:
        raise Refusal(400, f"{what} is of datatype {BYTES} as JSON text: send it as binary data, with binary_data_size")
    try:
        array = np.array(of_type(data, list, f"the data of {what}"))
    except (ValueError, OverflowError) as error:
        raise Refusal(400, f"the data of {what} are no array of numbers: {error}") from error
    dtype = np.dtype(DTYPES[datatype])
    takes = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if array.size and array.dtype.kind not in takes:
        raise Refusal(400, f"the data of {what} are no {datatype}")
    if array.shape != tuple(shape) and (array.ndim != 1 or array.size != math.prod(shape)):
        raise Refusal(400, f"the data of {what} have shape {list(array.shape)}, its shape is {shape}")
    if array.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise Refusal(400, f"the data of {what} have numbers outside {datatype}'s {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(converted).all():
        raise Refusal(400, f"the data of {what} have numbers that {datatype} does not hold")
    return converted


def parse_binary(what: str, data: bytes, datatype: str, shape: List[int]) -> np.ndarray:
    """Converts the binary data of an input to an array."""
    count = math.prod(shape)
    if datatype == BYTES:
        texts = []
        at = 0
        while at + 4 <= len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            texts.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        if at != len(data) or len(texts) != count:
            raise Refusal(400, f"the binary data of {what} are not {count} lengths (4 bytes), each with its bytes")
        array = np.empty(count, object)
        array[:] = texts
        return array.reshape(shape)
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    if len(data) != count * dtype.itemsize:
        expected = count * dtype.itemsize
        raise Refusal(400, f"{what} has {len(data)} bytes of binary data, {datatype} {shape} takes {expected}")
    if datatype == "BOOL" and data.strip(b"\0\1"):
        raise Refusal(400, f"the binary data of {what} are no {datatype}: expected bytes of 0 and 1")
    return np.frombuffer(data, dtype).reshape(shape)


def write_response(model: str, request: Request, outputs: Dict[str, np.ndarray]) -> Tuple[bytes, Dict[str, str]]:
    """Writes the body of a response, and its headers. Outputs of dtype `object` hold texts.

    Raises Refusal (400) for an output that does not exist.
    """
    wanted = request.outputs
    if wanted is None:
        wanted = {name: request.binary for name in outputs}
    entries: List[Dict[str, Any]] = []
    binary: List[bytes] = []
    for name, as_bytes in wanted.items():
        if name not in outputs:
            raise Refusal(400, f"output '{name:.80}' was asked for, the model has {', '.join(outputs)}")
        array = outputs[name]
        entry: Dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if as_bytes:
            binary.append(bytes_of(array))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = json_values(name, array)
        entries.append(entry)
    content: Dict[str, Any] = {"model_name": model, "outputs": entries}
    if request.id is not None:
        content["id"] = request.id
    head = json.dumps(content, separators=(",", ":")).encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *binary]), headers


def json_values(name: str, array: np.ndarray) -> List[Union[bool, int, float, str]]:
    """Converts an array to a flat JSON array. Raises Refusal (500) for NaN and infinity, which JSON lacks."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refusal(500, f"output '{name:.80}' has values that are not finite: ask for it as binary data")
    values: List[Union[bool, int, float, str]] = array.reshape(-1).tolist()
    return values


def bytes_of(array: np.ndarray) -> bytes:
    """Returns an array's elements as bytes, little-endian."""
    if array.dtype == object:
        texts = [str(text).encode() for text in array.reshape(-1)]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
