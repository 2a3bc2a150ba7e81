"""Shows the progress of a video: a bar on a terminal, a line when the labels change, and the figures at the end."""

import sys
import time
from typing import TYPE_CHECKING, List, Optional

from effedge.deploy.image.records import Record, summary
from effedge.deploy.video.source import Video

if TYPE_CHECKING:
    from effedge.deploy.video.frame_reader import Frame, FrameReader

EVERY_SECONDS = 0.5
BAR = 24  # characters


class Progress:
    """The progress of a video, to which every frame is added.

    Attributes:
        done: the number of frames so far.
        milliseconds: of every frame; of a live source from its arrival to its result, else in the engine, with
            preparation and selection.
    """

    def __init__(self, video: Video, quiet: bool, talking: bool) -> None:
        """`talking` prints what is seen to standard output, unless `quiet`."""
        self.video, self.talking = video, talking and not quiet
        self.bar = not quiet and sys.stderr.isatty()
        self.milliseconds: List[float] = []
        self.said: Optional[List[str]] = None
        self.started = self.shown = self.ended = time.perf_counter()

    @property
    def done(self) -> int:
        """The number of frames so far."""
        return len(self.milliseconds)

    @property
    def per_second(self) -> float:
        """Frames a second so far."""
        return self.done / max(self.ended - self.started, 1e-9)

    def start(self) -> None:
        """Starts the clock of the rate: with the first frame, not with the engine's loading."""
        self.started = self.ended = time.perf_counter()

    def add(self, frame: "Frame", record: Record, milliseconds: float) -> None:
        """Counts a frame, and shows it where there is something new to show."""
        self.milliseconds.append(milliseconds)
        self.ended = time.perf_counter()
        if self.talking and labels(record) != self.said:
            self.clear()
            self.said = labels(record)
            when = time.strftime("%H:%M:%S", time.localtime(frame.seconds)) if self.video.live else clock(frame.seconds)
            print(f"{when} frame {frame.number}: {summary(record)}", flush=True)
        if self.bar and self.ended - self.shown > EVERY_SECONDS:
            self.shown = self.ended
            print(f"\r\033[K{self.line()}", end="", file=sys.stderr, flush=True)

    def line(self) -> str:
        """Writes the bar."""
        rate, total = f"{self.per_second:.1f} a second", self.video.frames
        if total is None:
            return f"{self.done} frames, {rate}"
        share = min(1.0, self.done / total)
        left = max(0, total - self.done) / max(self.per_second, 1e-9)
        bar = ("#" * round(BAR * share)).ljust(BAR, "-")
        return f"[{bar}] {self.done}/{total} frames, {rate}, {clock(left).partition('.')[0]} left"

    def clear(self) -> None:
        """Removes the bar from the terminal."""
        if self.bar:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def labels(record: Record) -> List[str]:
    """Returns the labels whose change is worth a line: those of all detections, or of the best class."""
    if "classes" in record:
        return [record["classes"][0]["label"]]
    return sorted(detection["label"] for detection in record["detections"])


def clock(seconds: float) -> str:
    """Writes seconds as minutes and seconds: 75.5 -> "1:15.50"."""
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"


def closing_line(progress: Progress, reader: "FrameReader") -> str:
    """Writes the figures of the whole run."""
    import numpy as np

    p50, p99 = np.percentile(progress.milliseconds, [50, 99])
    count = f"{progress.done} frames" if progress.done > 1 else "1 frame"
    rate = f"{progress.ended - progress.started:.1f} s, {progress.per_second:.1f} a second"
    if not progress.video.live:
        return f"{count} in {rate}; median {p50:.1f} ms, p99 {p99:.1f} ms a frame (resizing, engine, selection)"
    return (
        f"{count} in {rate}, {reader.dropped} dropped; age when done (from its arrival): median {p50:.1f} ms, "
        f"p99 {p99:.1f} ms"
    )
