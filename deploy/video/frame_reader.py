"""Reads the frames of a video in a thread: every frame of a file, in order; the newest of a camera or a stream.

Decoding goes on beside the engine. Of a live source only the latest frame is kept: a consumer that is slower than the
source gets frames that are as new as they can be, instead of ever older ones from a queue, and the frames that it never
saw are counted. Of a file a few frames are read ahead.
"""

import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Deque, Iterator, NamedTuple, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.video.source import Video

if TYPE_CHECKING:
    import numpy as np

AHEAD = 4  # frames of a file that are decoded before they are wanted
POLL_SECONDS = 0.1  # until a stop is noticed
RETRY_AFTER_SECONDS = 2.0
STEADY_SECONDS = 60.0  # a stream that lasted so long is connected to again when it ends
JOIN_SECONDS = 2.0  # to wait for a read that does not return
ENDS_EARLY_SECONDS = 1.0  # by which a file may be shorter than it says
POS_MSEC = 0  # cv2.CAP_PROP_POS_MSEC


class Frame(NamedTuple):
    """A frame.

    number: in the source, from 0; dropped frames count.
    seconds: from a file's start; for a live source the time of the day when it arrived (as time.time).
    arrival: the same instant by time.perf_counter.
    pixels: RGB uint8 [H,W,3].
    """

    number: int
    seconds: float
    arrival: float
    pixels: "np.ndarray"


class FrameReader:
    """An iterator of frames, which ends with the source or after `stop`; to be used as a context manager.

    Attributes:
        read: the number of frames read so far.
        dropped: the number of those that were never taken.
        seconds: the time of the last frame.
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

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.thread.join(JOIN_SECONDS)
        if not self.thread.is_alive():  # else it is inside a read: a capture must not be released then
            self.capture.release()

    def stop(self) -> None:
        """Ends the iteration. Takes no lock, so that a signal's handler may call it."""
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
            # BGR becomes RGB here, where dropped frames cost nothing.
            yield frame._replace(pixels=frame.pixels[:, :, ::-1].copy())
        if self.failure is not None:
            raise self.failure

    def work(self) -> None:
        """Reads to the end, or until stopped: the thread's work."""
        try:
            while not self.stopped:
                ok, pixels = self.capture.read()
                if ok and pixels is not None:
                    self.put(pixels)
                elif not self.connect_again():
                    break
        except BaseException as error:
            self.failure = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def put(self, pixels: "np.ndarray") -> None:
        """Hands a frame to the iteration: in the place of the last one if the source is live, else behind it."""
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
        """Returns the time of the frame just read, in seconds from the file's start."""
        seconds = float(self.capture.get(POS_MSEC)) / 1000
        # Formats without times (raw H.264) give 0 for every frame.
        return seconds if seconds > 0 or not self.video.fps else self.read / self.video.fps

    def connect_again(self) -> bool:
        """Connects to a stream again that ended. Returns False if it is none, has ended within a minute of a second
        connection, or does not answer."""
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
        """Explains why there are no more frames; None for a file that was read to its end."""
        name, video = self.video.name, self.video
        if self.read == 0:
            return f"'{name}' gave no frame: it is empty, damaged or of a codec that OpenCV cannot read"
        if video.live:
            return f"'{name}' gave no more frames after {self.read}: it was unplugged, or the stream ended"
        if not video.frames or self.read >= video.frames:
            return None
        # For some formats the number of frames is only the container's duration times the rate, which is too large
        # where the rate varies: then the time of the last frame decides.
        duration = video.frames / video.fps if video.fps else 0.0
        if duration - self.seconds <= ENDS_EARLY_SECONDS + 1 / (video.fps or 1):
            return None
        return f"'{name}' ends after {self.read} of {video.frames} frames: it was cut short or is damaged"
