"""Opens the sources of video: files, cameras and streams, all by OpenCV.

| SOURCE | kind |
|---|---|
| clip.mp4, file:///data/clip.mp4 | a file |
| http://host/clip.mp4 | a file, if it says how long it is; else a stream |
| rtsp://user:password@host/path | a stream |
| /dev/video0, camera:0 | a camera (V4L2 on Linux) |
| csi:0 | a Jetson's CSI camera, by GStreamer |
| rtspsrc location=… ! … ! appsink | a GStreamer pipeline of your own, which ends in an appsink that gives BGR |

OpenCV and not PyAV, because only OpenCV reaches a CSI camera, and JetPack brings an OpenCV that has GStreamer. All
functions used here are in OpenCV 4.5 (JetPack 5) to 5.0.
"""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Protocol, Tuple
from urllib.parse import unquote, urlsplit

from effedge.deploy.common.cli import UserError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".mjpeg", ".mjpg", ".h264", ".h265", ".264", ".265", ".hevc",
)  # fmt: skip
# By libargus, in the sensor's default mode; nvvidconv and videoconvert convert it to OpenCV's BGR.
CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id={0} ! video/x-raw(memory:NVMM) ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! "
    "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
)
OPEN_TIMEOUT_MS, READ_TIMEOUT_MS = 10_000, 10_000  # of streams
FASTEST = 1000.0  # frames a second; a source that says more (MPEG-TS says 90,000) does not know its rate


class Capture(Protocol):
    """The methods of cv2.VideoCapture that are used."""

    def read(self) -> "Tuple[bool, Optional[np.ndarray]]":
        """Returns (ok, the next frame, BGR uint8 [H,W,3])."""

    def get(self, propId: int) -> float:  # noqa: N803 - OpenCV's name
        """Returns one of OpenCV's properties, 0 if it is unknown."""

    def release(self) -> None:
        """Closes the source."""


class Video(NamedTuple):
    """An opened source.

    name: for messages, without a password.
    live: frames come whether they are taken or not, and there is no end.
    frames: their number, as the file says; for some formats it is the container's estimate. None if live.
    fps: frames a second, None if unknown.
    reopen: connects again and returns a new capture; None if the source is no stream.
    """

    name: str
    capture: Capture
    live: bool
    frames: Optional[int] = None
    fps: Optional[float] = None
    reopen: Optional[Callable[[], Capture]] = None


def is_video(source: str) -> bool:
    """True if a SOURCE is one of this module's, False for an image or a folder of images."""
    return (
        source.startswith(("camera:", "csi:", "/dev/video"))
        or "://" in source
        or is_pipeline(source)
        or (source.lower().endswith(SUFFIXES) and not Path(source).is_dir())
    )


def is_pipeline(source: str) -> bool:
    """True if a SOURCE is a GStreamer pipeline."""
    return " ! " in source and not Path(source).exists()


def local_file(source: str) -> Optional[Path]:
    """Returns the path of a file; None for a camera or a stream."""
    if source.startswith("file://"):
        return Path(unquote(urlsplit(source).path))
    other = source.startswith(("camera:", "csi:", "/dev/video")) or "://" in source or is_pipeline(source)
    return None if other else Path(source)


def display_name(source: str) -> str:
    """Returns a source as messages may show it: without the name and password of an address."""
    if "://" not in source or is_pipeline(source):
        return source
    scheme, rest = source.split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def opencv() -> Any:
    """Imports the module cv2, without its log on stderr. Raises UserError if it is not installed."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"video needs OpenCV ({error}): pip install opencv-python-headless; on a Jetson rather the one with "
            "GStreamer, sudo apt install libopencv-python (JetPack 5, 6) or python3-opencv"
        ) from error
    return cv2


def open_video(source: str) -> Video:
    """Opens a file, camera or stream.

    Raises UserError if there is no such source, it is not permitted or no video, or OpenCV lacks what it takes.
    """
    cv2, path = opencv(), local_file(source)
    if path is not None:
        return open_file(cv2, path)
    name = display_name(source)
    if "://" in source and not is_pipeline(source):
        capture = open_stream(cv2, source)
        frames, fps = length(cv2, capture)
        if frames is not None and urlsplit(source).scheme in ("http", "https"):
            return Video(name, capture, False, frames, fps)
        return Video(name, capture, True, None, fps, lambda: open_stream(cv2, source))
    if source.startswith("csi:") or is_pipeline(source):
        pipeline = CSI_PIPELINE.format(camera_number(source)) if source.startswith("csi:") else source
        capture = open_pipeline(cv2, name, pipeline)
    else:
        capture = open_camera(cv2, source)
    return Video(name, capture, True, None, length(cv2, capture)[1])


def open_file(cv2: Any, path: Path) -> Video:
    """Opens a video file."""
    if not path.is_file():
        raise UserError(f"'{path}' is no file" if path.exists() else f"no such video: '{path}'")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(
            f"'{path}' is no video that OpenCV can read, or was cut short (an .mp4 has its index at the end): "
            "replace it, or convert it to H.264 in .mp4"
        )
    frames, fps = length(cv2, capture)
    return Video(str(path), capture, False, frames, fps)


def open_stream(cv2: Any, source: str) -> Capture:
    """Connects to a stream, with a limit on the time to open it and to read a frame where OpenCV has FFmpeg."""
    if cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends():
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise UserError(f"cannot open the stream '{display_name(source)}': is the address right, and does it answer?")
    return capture


def open_pipeline(cv2: Any, name: str, pipeline: str) -> Capture:
    """Starts a GStreamer pipeline; `name` is for messages."""
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if capture.isOpened():
        return capture
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        raise UserError(
            f"'{name}' needs an OpenCV with GStreamer, which cv2 {cv2.__version__} here has not (pip's never "
            "has): pip uninstall opencv-python-headless, then sudo apt install libopencv-python (or python3-opencv)"
        )
    raise UserError(f"GStreamer cannot start '{name}': try it by itself, gst-launch-1.0 {shlex.quote(pipeline)}")


def open_camera(cv2: Any, source: str) -> Capture:
    """Opens a camera."""
    if not sys.platform.startswith("linux"):
        capture = cv2.VideoCapture(camera_number(source))
        if not capture.isOpened():
            raise UserError(f"no camera '{source}' that OpenCV can open")
        return capture
    device = Path(source if source.startswith("/dev/") else f"/dev/video{camera_number(source)}")
    if not device.exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise UserError(f"no camera '{device}': connect one, or choose another (there are: {others})")
    if not os.access(str(device), os.R_OK | os.W_OK):
        raise UserError(f"may not use the camera '{device}': sudo usermod -aG video $USER, then log in again")
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise UserError(f"'{device}' gives no video: another program may be using it, or it is no capture device")
    return capture


def camera_number(source: str) -> int:
    """Returns the N of camera:N or csi:N."""
    kind, _, number = source.partition(":")
    if not (number.isascii() and number.isdigit()):
        raise UserError(f"unknown camera '{source}': expected {kind}: and a number, such as {kind}:0")
    return int(number)


def length(cv2: Any, capture: Capture) -> Tuple[Optional[int], Optional[float]]:
    """Reads (frames, frames a second), None where unknown."""
    frames, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return (int(frames) if 0 < frames < 1e9 else None), (float(fps) if 0 < fps <= FASTEST else None)
