"""An .mp4 of annotated frames, by OpenCV: MPEG-4 Part 2 ("mp4v"), the one video codec that every OpenCV can write.

OpenCV says nothing when a frame cannot be written. So the disk's free space is looked at before each frame, and
the file is opened again at the end and its frames are counted.
"""

import shutil
from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.video.source import length, opencv

SUFFIX, CODEC = ".mp4", "mp4v"
LEAST_ROOM_MIB = 32  # the index, which comes last, must still fit
SMALLEST = 16  # pixels a side; the codec works in blocks of so many


class VideoWriter:
    """`write` frames, then `close`. The first frame's size is the video's.

    Attributes: `written`, the frames so far.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """`path` ends in .mp4. UserError if OpenCV has no FFmpeg to write it with: at the first frame."""
        self.path, self.fps, self.written = path, fps, 0
        self.cv2 = opencv()
        self.writer: Any = None
        self.size: Optional[Tuple[int, int]] = None

    def write(self, pixels: np.ndarray, times: int = 1) -> None:
        """Append RGB uint8 [H,W,3], `times` over. One of another size than the first is resized to it."""
        if self.writer is None:
            self.open(pixels.shape[1], pixels.shape[0])
        frame = np.ascontiguousarray(pixels[:, :, ::-1])
        if self.size != (frame.shape[1], frame.shape[0]):
            frame = self.cv2.resize(frame, self.size)
        for _ in range(times):
            self.writer.write(frame)
        self.written += times

    def open(self, width: int, height: int) -> None:
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
        """End the file. UserError if it does not have all frames then."""
        if self.writer is None:
            return
        self.writer.release()
        capture = self.cv2.VideoCapture(str(self.path))
        found = (length(self.cv2, capture)[0] or 0) if capture.isOpened() else 0
        capture.release()
        if found != self.written:
            raise UserError(
                f"'{self.path.name}' has {found} of {self.written} frames: it could not be written whole, "
                "perhaps for want of room on the disk"
            )


def check_room(folder: Path) -> None:
    """UserError if the disk is all but full."""
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(str(folder)).free < LEAST_ROOM_MIB << 20:
        raise UserError(f"less than {LEAST_ROOM_MIB} MiB are free on the disk of '{folder}': make room there")
