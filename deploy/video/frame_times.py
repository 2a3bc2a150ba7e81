"""Gives each frame of an .mp4 its own time, where OpenCV writes all at a constant rate.

An .mp4 holds how long each frame is shown in the box `stts`, in units of the track's timescale (ISO/IEC 14496-12:2015,
8.6.1.2). OpenCV's FFmpeg writes the frames first and `moov`, the box of what describes them, last. So `moov` is
replaced; no frame is moved or encoded again.
"""

import itertools
import struct
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional, Sequence, Tuple

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
# Where boxes hold their duration and their timescale, in bytes from the end of their header, by version 0 and 1:
# 8.2.2, 8.3.2, 8.4.2 and 8.6.6 of the standard. tkhd and elst count in the timescale of mvhd.
DURATION = {b"mvhd": (16, 24), b"tkhd": (20, 28), b"mdhd": (16, 24), b"elst": (8, 8)}
TIMESCALE = {b"mvhd": (12, 20), b"mdhd": (12, 20)}
ROUNDING = 0.002  # seconds; containers such as .mkv round times to milliseconds


def is_constant(times: Sequence[float], fps: float) -> bool:
    """Returns True for frames at `times` (seconds) that come at a constant rate of `fps`, or have no times at all."""
    if times[-1] <= times[0]:
        return True
    margin = min(ROUNDING, 0.5 / fps)
    return all(abs(time - times[0] - index / fps) <= margin for index, time in enumerate(times))


def end_time(times: Sequence[float], length: Optional[float]) -> float:
    """Returns the time in seconds at which the last of the frames at `times` ends, two at least.

    `length` is the source's, as it says. It counts if it shows the last frame no longer than the longest of the others;
    else that is shown as long as the one before it.
    """
    shown = [after - before for before, after in zip(times, times[1:])]
    if length is not None and 0 < length - times[-1] <= max(shown):
        return length
    return times[-1] + max(shown[-1], 0.0)


def set_frame_times(path: Path, times: Sequence[float], end: float) -> None:
    """Shows each frame of the .mp4 at `path` from its time to the next one's, the last to `end`; in seconds.

    Raises ValueError, and leaves the file as it is, if that is not laid out as OpenCV writes it.
    """
    with path.open("r+b") as file:
        start = start_of_moov(file)
        file.seek(start)
        moov = file.read()
        boxes = dict(walk(moov))
        if b"stts" not in boxes or b"ctts" in boxes:  # the latter: frames are shown in another order than stored
            raise ValueError("its frames have no times, or another order")
        timescales: Dict[bytes, int] = {
            kind: struct.unpack_from(">I", boxes[kind], offsets[boxes[kind][0]])[0]
            for kind, offsets in TIMESCALE.items()
        }
        ticks = [0]
        for time in [*times[1:], end]:
            ticks.append(max(ticks[-1] + 1, round((time - times[0]) * timescales[b"mdhd"])))
        try:
            moov = rebuilt(moov, ticks, timescales)
        except struct.error as error:
            raise ValueError(f"it is too long for its boxes ({error})") from error
        file.seek(start)
        file.write(moov)
        file.truncate()


def start_of_moov(file: BinaryIO) -> int:
    """Returns where `moov` begins. Raises ValueError if it is not the last box of the file."""
    file.seek(0)
    while True:
        start = file.tell()
        head = file.read(16)
        if len(head) < 8:
            raise ValueError("its last box is not moov")
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1:  # 64 bits of it follow: frames of more than 4 GiB
            (size,) = struct.unpack(">Q", head[8:])
        end = file.seek(0, 2)
        if kind == b"moov" and start + size == end:
            return start
        if size < 8 or start + size >= end:
            raise ValueError("its last box is not moov")
        file.seek(start + size)


def children(content: bytes) -> Iterator[bytes]:
    """Yields the boxes, with their headers, that follow each other in `content`. Raises ValueError for bytes that are
    none."""
    start = 0
    while start < len(content):
        (size,) = struct.unpack(">I", content[start : start + 4].rjust(4, b"\0"))
        if size < 8 or start + size > len(content):
            raise ValueError("its boxes do not fit into each other")
        yield content[start : start + size]
        start += size


def walk(content: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Yields the kind of each box in `content`, at every depth, and the bytes behind its header."""
    for box in children(content):
        yield box[4:8], box[8:]
        if box[4:8] in CONTAINERS:
            yield from walk(box[8:])


def rebuilt(box: bytes, ticks: Sequence[int], timescales: Dict[bytes, int]) -> bytes:
    """Returns a box with new durations.

    Args:
        ticks: when each frame begins, and the last one ends, in the timescale of mdhd.
        timescales: units a second, of mvhd and mdhd.
    """
    kind, content = box[4:8], bytearray(box[8:])
    if kind in CONTAINERS:
        content = bytearray().join(rebuilt(child, ticks, timescales) for child in children(box[8:]))
    elif kind == b"stts":
        content[4:] = time_to_sample(ticks)
    elif kind in DURATION:
        version = content[0]
        scale = timescales.get(kind, timescales[b"mvhd"])
        duration = round(ticks[-1] * scale / timescales[b"mdhd"])
        struct.pack_into(">Q" if version else ">I", content, DURATION[kind][version], duration)
    return struct.pack(">I4s", 8 + len(content), kind) + bytes(content)


def time_to_sample(ticks: Sequence[int]) -> bytes:
    """Returns the entries of `stts`: their number, and of each the number of frames and how long each is shown."""
    shown: List[int] = [after - before for before, after in zip(ticks, ticks[1:])]
    runs = [(len(list(run)), units) for units, run in itertools.groupby(shown)]
    return struct.pack(">I", len(runs)) + b"".join(struct.pack(">II", count, units) for count, units in runs)
