"""Writes annotated frames to an .mp4, by OpenCV: MPEG-4 Part 2 ("mp4v"), the video codec that every OpenCV can write.

OpenCV reports no error when a frame cannot be written. So the disk's free space is checked before each frame, and the
file is opened again at the end and its frames are counted.
"""

import shutil
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.deploy.video.frame_times import end_time, is_constant, set_frame_times
from effedge.deploy.video.source import length, opencv

SUFFIX, CODEC = ".mp4", "mp4v"
LEAST_ROOM_MIB = 32  # the index, which comes last, must still fit
SMALLEST = 16  # pixels a side; the codec works in blocks of that size


class VideoWriter:
    """A video that is being written: `write` frames, then `close`. The first frame's size is the video's.

    Attributes: `written`, the number of frames so far.
    """

    def __init__(self, path: Path, fps: float, length: Optional[float] = None) -> None:
        """`path` ends in .mp4; `length` is the source's in seconds. The first frame raises UserError if OpenCV has no
        FFmpeg to write it with."""
        self.path, self.fps, self.length, self.written = path, fps, length, 0
        self.seconds: List[float] = []
        self.cv2 = opencv()
        self.writer: Any = None
        self.size: Optional[Tuple[int, int]] = None

    def write(self, pixels: np.ndarray, times: int = 1, seconds: Optional[float] = None) -> None:
        """Appends a frame, RGB uint8 [H,W,3], `times` over. A frame of another size than the first is resized.

        `seconds` is its time in the source. If each frame has one, and these are not those of a constant rate, they
        become the video's.
        """
        if self.writer is None:
            self.open(pixels.shape[1], pixels.shape[0])
        frame = np.ascontiguousarray(pixels[:, :, ::-1])
        if self.size != (frame.shape[1], frame.shape[0]):
            frame = self.cv2.resize(frame, self.size)
        for _ in range(times):
            self.writer.write(frame)
        self.written += times
        if seconds is not None:
            self.seconds.append(seconds)

    def open(self, width: int, height: int) -> None:
        """Begins the file. Raises UserError for a size or codec that OpenCV cannot write."""
        if min(width, height) < SMALLEST:
            raise UserError(f"a video of {width} x {height} pixels cannot be written: {SMALLEST} a side at least")
        code = self.cv2.VideoWriter_fourcc(*CODEC)
        self.writer = self.cv2.VideoWriter(str(self.path), self.cv2.CAP_FFMPEG, code, self.fps, (width, height))
        self.size = (width, height)
        if not self.writer.isOpened():
            raise UserError(
                f"OpenCV {self.cv2.__version__} cannot write '{self.path.name}' ({CODEC}, {width} x {height}): take "
                "one with FFmpeg, such as pip's opencv-python-headless"
            )

    def close(self) -> None:
        """Ends the file. Raises UserError if it does not have all frames then."""
        if self.writer is None:
            return
        self.writer.release()
        if len(self.seconds) == self.written > 1 and not is_constant(self.seconds, self.fps):
            try:
                set_frame_times(self.path, self.seconds, end_time(self.seconds, self.length))
            except ValueError as error:
                log.warning(
                    f"note: '{self.path.name}' plays at {self.fps:g} frames a second, unlike its source: {error}"
                )
        capture = self.cv2.VideoCapture(str(self.path))
        frames = (length(self.cv2, capture)[0] or 0) if capture.isOpened() else 0
        capture.release()
        if frames != self.written:
            raise UserError(
                f"'{self.path.name}' has {frames} of {self.written} frames: it could not be written whole, "
                "perhaps for want of room on the disk"
            )


def check_room(folder: Path) -> None:
    """Raises UserError if the disk is all but full."""
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(str(folder)).free < LEAST_ROOM_MIB << 20:
        raise UserError(f"less than {LEAST_ROOM_MIB} MiB are free on the disk of '{folder}': make room there")
