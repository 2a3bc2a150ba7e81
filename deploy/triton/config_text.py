"""Writes Triton's model configurations (config.pbtxt): messages of protobuf's text format.

Sources: triton-inference-server/common, protobuf/model_config.proto; protobuf.dev/reference/protobuf/textformat-spec.
"""

from typing import Any, Dict, Iterator, List, Mapping, Union

Message = Mapping[str, Any]  # values: text, Word, int, bool, a list of these, a Message, or a list of Messages


class Word(str):
    """A value of an enumeration, which has no quotes."""


def as_text(message: Message) -> str:
    """Writes a message; fields that are None or an empty list are left out.

    >>> print(as_text({"name": "net", "input": [{"data_type": Word("TYPE_FP32"), "dims": [-1, 3]}]}), end="")
    name: "net"
    input {
      data_type: TYPE_FP32
      dims: [ -1, 3 ]
    }
    """
    return "".join(f"{line}\n" for line in lines_of(message))


def lines_of(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
            for entry in value if isinstance(value, list) else [value]:
                yield f"{name} {{"
                yield from (f"  {line}" for line in lines_of(entry))
                yield "}"
        elif isinstance(value, list) and value:
            yield f"{name}: [ {', '.join(map(scalar, value))} ]"
        elif value is not None and value != []:
            yield f"{name}: {scalar(value)}"


def scalar(value: Union[str, int, bool]) -> str:
    """Writes a number, a word, true or false; or a text in quotes, its bytes in UTF-8 as octal escapes where they are
    not plain.

    >>> scalar('a "µ"'), scalar(True)
    ('"a \\\\"\\\\302\\\\265\\\\""', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Word)):
        return str(value)
    escaped = {ord('"'): '\\"', ord("\\"): "\\\\"}
    plain = range(0x20, 0x7F)
    return '"' + "".join(escaped.get(b, chr(b) if b in plain else f"\\{b:03o}") for b in value.encode("utf-8")) + '"'


def entries(mapping: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Converts a mapping to the entries of a protobuf map."""
    return [{"key": key, "value": value} for key, value in mapping.items()]
