"""Records as JSON lines: in a file that holds whole lines only, whatever becomes of the disk, or on standard output."""

import contextlib
import json
import sys
from typing import IO, Any, Dict, Iterator, Optional

from effedge.deploy.common.files import whole_file

STDOUT = "-"


class JsonLines:
    """`write` a record; it is out when the call returns. OSError if it cannot be: then nothing of it is in the file."""

    def __init__(self, file: IO[bytes], seekable: bool) -> None:
        """`file` has no buffer, or is standard output's."""
        self.file, self.seekable, self.end = file, seekable, 0

    def write(self, record: Dict[str, Any]) -> None:
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
def opened_lines(path: Optional[str]) -> Iterator[Optional[JsonLines]]:
    """Lines to `path`, which is there when the block has ended well, or to standard output ("-"); None for none."""
    if path is None:
        yield None
    elif path == STDOUT:
        yield JsonLines(sys.stdout.buffer, False)
    else:
        with whole_file(path) as temporary, temporary.open("wb", buffering=0) as file:
            yield JsonLines(file, True)
