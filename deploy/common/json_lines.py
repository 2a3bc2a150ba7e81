"""Writes records as JSON lines, to standard output or to a file that holds complete lines only, even on a full disk."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Iterator, Mapping, Optional

from effedge.deploy.common.cli import STDOUT
from effedge.deploy.common.files import atomic_file


class JsonLines:
    """A writer of JSON lines to an open file."""

    def __init__(self, file: IO[bytes], seekable: bool) -> None:
        """`file` has no buffer."""
        self.file, self.seekable, self.end = file, seekable, 0

    def write(self, record: Mapping[str, object]) -> None:
        """Writes a record, which is in the file when the call returns. Raises OSError if it cannot be written; then no
        part of it is in the file."""
        data = (json.dumps(record) + "\n").encode()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]  # a disk that fills up may take a part
            self.file.flush()
        except OSError:
            if self.seekable:
                self.file.truncate(self.end)
            raise
        self.end += len(data)


@contextlib.contextmanager
def open_json_lines(path: Optional[Path]) -> Iterator[Optional[JsonLines]]:
    """Yields a writer to `path`, a file that exists once the block has ended well, or to `STDOUT`; None for None."""
    if path is None:
        yield None
    elif path == STDOUT:
        sys.stdout.flush()
        with os.fdopen(os.dup(1), "wb", buffering=0) as file:  # sys.stdout may be standard error: Parser.parse_args
            yield JsonLines(file, False)
    else:
        with atomic_file(path) as temporary, temporary.open("wb", buffering=0) as file:
            yield JsonLines(file, True)
