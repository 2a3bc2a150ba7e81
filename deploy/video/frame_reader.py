"""Frames as they are wanted: each one of a file, in order; the newest of a camera or a stream.

A thread of its own reads, so that decoding goes on beside the engine. Of what is live it keeps the latest frame only:
a consumer that is slower than the source gets frames that are as new as they can be, instead of ever older ones from a
queue, and what it never saw is counted. Of a file it reads a few frames ahead and waits.
"""

import sys
import threading
import time
from collections import deque
from typing import Any, Deque, Iterator, NamedTuple, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.video.source import Video

AHEAD = 4  # frames of a file that are decoded before they are wanted
POLL_SECONDS = 0.1  # how soon a stop is noticed
RETRY_AFTER_SECONDS = 2.0
STEADY_SECONDS = 60.0  # a stream that lasted so long is connected to again when it ends
LEAVING_SECONDS = 2.0  # how long to wait for a read that does not return
ENDS_EARLY_SECONDS = 1.0  # a file may be so much shorter than it says
POS_MSEC = 0  # cv2.CAP_PROP_POS_MSEC


class Frame(NamedTuple):
    """number: in the source, from 0, with those that were dropped. seconds: from a file's start; for what is live, the
    time of day it came (as time.time). came: the same instant as time.perf_counter. pixels: RGB uint8 [H,W,3]."""

    number: int
    seconds: float
    came: float
    pixels: Any


class FrameReader:
    """Iterate over it for frames; it ends with the source, or after `stop`. Use as a context manager.

    Attributes: `read`, the frames read so far; `dropped`, those of them that were never taken; `seconds`, the time of
    the last.
    """

    def __init__(self, video: Video) -> None:
        self.video, self.capture = video, video.capture
        self.read, self.dropped, self.seconds = 0, 0, 0.0
        self.waiting: Deque[Frame] = deque()
        self.changed = threading.Condition()
        self.stopped = self.ended = False
        self.failure: Optional[BaseException] = None
        self.connected = time.perf_counter()
        self.thread = threading.Thread(target=self.work, name="frames", daemon=True)

    def __enter__(self) -> "FrameReader":
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
        self.thread.join(LEAVING_SECONDS)
        if not self.thread.is_alive():  # else it is inside a read: a capture must not be released then
            self.capture.release()

    def stop(self) -> None:
        """No more frames. Takes no lock, so that a signal's handler may call it."""
        self.stopped = True

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self.changed:
                while not (self.waiting or self.ended or self.stopped):
                    self.changed.wait(POLL_SECONDS)
                if self.stopped or not self.waiting:
                    break
                frame = self.waiting.popleft()
                self.changed.notify_all()
            # The channels are turned here, where frames that are dropped cost nothing.
            yield frame._replace(pixels=frame.pixels[:, :, ::-1].copy())
        if self.failure is not None:
            raise self.failure

    def work(self) -> None:
        """The thread: read to the end, or until stopped."""
        try:
            while not self.stopped:
                ok, pixels = self.capture.read()
                if ok:
                    self.put(pixels)
                elif not self.connect_again():
                    break
        except BaseException as error:
            self.failure = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def put(self, pixels: Any) -> None:
        live = self.video.live
        self.seconds = time.time() if live else self.position()
        frame = Frame(self.read, self.seconds, time.perf_counter(), pixels)
        self.read += 1
        with self.changed:
            if live:
                self.dropped += len(self.waiting)
                self.waiting.clear()
            while len(self.waiting) >= AHEAD and not self.stopped:
                self.changed.wait(POLL_SECONDS)
            self.waiting.append(frame)
            self.changed.notify_all()

    def position(self) -> float:
        """The time of the frame just read, in seconds from the file's start."""
        told = float(self.capture.get(POS_MSEC)) / 1000
        # Formats without times (raw H.264) tell 0 for each.
        return told if told > 0 or not self.video.fps else self.read / self.video.fps

    def connect_again(self) -> bool:
        """Whether a stream that ended goes on after another connection. One that ends within a minute has ended."""
        lasted = time.perf_counter() - self.connected
        if self.video.reopen is None or (self.capture is not self.video.capture and lasted < STEADY_SECONDS):
            return False
        bar = "\r\033[K" if sys.stderr.isatty() else ""  # it is written over
        print(f"{bar}{self.video.name}: ended after {self.read} frames, connecting again", file=sys.stderr, flush=True)
        end = time.perf_counter() + RETRY_AFTER_SECONDS
        while time.perf_counter() < end and not self.stopped:
            time.sleep(POLL_SECONDS)
        if self.stopped:
            return False
        self.capture.release()
        try:
            self.capture = self.video.reopen()
        except UserError:
            return False
        self.connected = time.perf_counter()
        return True

    def end_reason(self) -> Optional[str]:
        """Why there are no more frames, where that is not as it should be; None for a file that was read to its end."""
        name, video = self.video.name, self.video
        if self.read == 0:
            return f"'{name}' gave no frame: it is empty, damaged or of a codec that OpenCV cannot read"
        if video.live:
            return f"'{name}' gave no more frames after {self.read}: it was unplugged, or the stream ended"
        if not video.frames or self.read >= video.frames:
            return None
        # For some formats the number of frames is only the container's duration times the rate, which says too much
        # where the rate varies: then the time of the last frame tells.
        whole = video.frames / video.fps if video.fps else 0.0
        if whole - self.seconds <= ENDS_EARLY_SECONDS + 1 / (video.fps or 1):
            return None
        return f"'{name}' ends after {self.read} of {video.frames} frames: it was cut short or is damaged"
