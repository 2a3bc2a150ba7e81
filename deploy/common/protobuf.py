"""Reads the wire format of protobuf (protobuf.dev/programming-guides/encoding), without copying a file's content."""

import mmap
from typing import Any, Iterator, Tuple, Union

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
Data = Union[mmap.mmap, bytes]
Span = Tuple[int, int]  # start and end of a length-delimited field in the file


def varint(data: Data, at: int) -> Tuple[int, int]:
    """Reads a number; returns it and the position of the next byte."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")


def fields(data: Data, span: Span) -> Iterator[Tuple[int, Any]]:
    """Yields (field number, value) of a message: an int, or the Span of a number of fixed size, a string, bytes or a
    nested message. Raises ValueError or IndexError for a message that is not whole."""
    at, end = span
    while at < end:
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = varint(data, at)
            yield number, value
        elif wire == BYTES:
            length, at = varint(data, at)
            if at + length > end:
                raise ValueError(f"field {number} ends beyond byte {end}")
            yield number, (at, at + length)
            at += length
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            yield number, (at, at + size)
            at += size
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
