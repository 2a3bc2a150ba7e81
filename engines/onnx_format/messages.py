"""Reads the fields of protobuf's messages by their numbers and types.

A file may hold anything: whatever is no message, or has a field of another type than the reader asks for, is a
ValueError or an IndexError, which `effedge.engines.onnx_header.read_header` turns into a line.
"""

import struct
from typing import Any, Dict, Iterator, List, Optional, Tuple

from effedge.deploy.common.protobuf import Data, Span, fields, varint


class Message:
    """The fields of a message by their numbers; where one is read that comes several times, the last counts."""

    def __init__(self, data: Data, span: Optional[Span]) -> None:
        """`span` is None for a message that is absent, which has no fields."""
        self.data = data
        self.size = 0 if span is None else span[1] - span[0]
        self.values: Dict[int, List[Any]] = {}
        for number, value in fields(data, span or (0, 0)):
            self.values.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self.values

    def spans(self, number: int) -> List[Span]:
        """Returns the places of a field of bytes, texts or messages."""
        values = self.values.get(number, [])
        if not all(isinstance(value, tuple) for value in values):
            raise ValueError(f"field {number} is a number")
        return values

    def span(self, number: int) -> Optional[Span]:
        """Returns the place of a field that may be absent."""
        return next(reversed(self.spans(number)), None)

    def message(self, number: int) -> "Message":
        """Reads a nested message."""
        return Message(self.data, self.span(number))

    def messages(self, number: int) -> Iterator["Message"]:
        """Reads repeated nested messages."""
        return (Message(self.data, span) for span in self.spans(number))

    def texts(self, number: int) -> List[str]:
        """Reads repeated texts."""
        return [self.data[start:end].decode() for start, end in self.spans(number)]

    def text(self, number: int) -> str:
        """Reads a text; "" if it is absent, as in protobuf."""
        return next(reversed(self.texts(number)), "")

    def number(self, number: int) -> int:
        """Reads an integer; 0 if it is absent, as in protobuf."""
        value = self.values.get(number, [0])[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {number} is no integer")
        return value

    def numbers(self, number: int) -> Tuple[int, ...]:
        """Reads a repeated integer, packed into one span or one value after the other."""
        numbers: List[int] = []
        for value in self.values.get(number, []):
            if isinstance(value, int):
                numbers.append(value)
                continue
            at, end = value
            while at < end:
                integer, at = varint(self.data, at)
                numbers.append(integer)
        return tuple(numbers)

    def floats(self, *numbers: int) -> Tuple[float, ...]:
        """Reads float32 values, packed or one by one."""
        spans = [span for number in numbers for span in self.spans(number)]
        return tuple(value for start, end in spans for (value,) in struct.iter_unpack("<f", self.data[start:end]))
