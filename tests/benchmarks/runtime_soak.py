"""Soaks the runtime: python tests/benchmarks/runtime_soak.py ENGINE IMAGES [--frames 1000000]

Frames cut from the images in the folder IMAGES go through a detector's ENGINE: half of them one by one, half as a
stream in throughput mode. They are arrays, files' bytes, grey and with an alpha channel. One in fifty is bad: a cut
file, no file at all, an array that is no image. In each of 60 parts both engines are loaded anew, and a live video
drops its connection and is connected to again.

Prints memory, file descriptors and threads after each part; then how they grew from the tenth part on, by a line
fitted to the memory. The exit status is 1 if a frame's detections differ from those that it had first, if a bad frame
is taken for an image, or if descriptors or threads grow.
"""

import argparse
import contextlib
import io
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Tuple

import cv2
import numpy as np
from PIL import Image

from effedge import Detector, UserError
from effedge.deploy.timing.machine import field, read
from effedge.deploy.timing.soak import STATUS
from effedge.deploy.video.frame_reader import FrameReader
from effedge.deploy.video.source import Video

PARTS, SETTLED = 60, 10  # parts, and how many of them pass before memory is taken as settled
BAD_EVERY = 50
SIDES = (24, 200)  # the shortest and the longest side of a frame
GOOD_FRAMES = 97  # a prime, so that each meets each neighbour
VIDEO_FRAMES = 20  # until the video's connection drops
KINDS = ("array", "jpeg", "png", "grey", "alpha")
BAD = (b"", b"no image", np.zeros((0, 4, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8), Path("missing.jpg"), None)


class Reading(NamedTuple):
    """What a process holds: memory in MiB, open file descriptors, threads."""

    memory: float
    descriptors: int
    threads: int


def reading() -> Reading:
    status = read(STATUS)
    return Reading(
        int(field(status, "VmRSS").split()[0]) / 1024, len(os.listdir("/proc/self/fd")), int(field(status, "Threads"))
    )


def cut_frames(folder: Path, number: int) -> List[Any]:
    """Cuts frames of many sizes and kinds out of the images of a folder."""
    generator = np.random.default_rng(0)
    images = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]
    frames: List[Any] = []
    for index in range(number):
        image, kind = images[index % len(images)], KINDS[index % len(KINDS)]
        width, height = (int(side) for side in generator.integers(*SIDES, 2))
        left, top = (int(generator.integers(0, max(1, size - side))) for size, side in zip(image.size, (width, height)))
        part = image.crop((left, top, left + width, top + height))
        if kind in ("jpeg", "png"):
            content = io.BytesIO()
            part.save(content, kind)
            frames.append(content.getvalue())
        else:
            frames.append(np.asarray(part.convert({"grey": "L", "alpha": "RGBA"}.get(kind, "RGB"))))
    return frames


def mixed(good: List[Any], bad: List[Any]) -> Iterator[Tuple[int, Any]]:
    """Yields frames without end, each with its index among the good ones, or -1 for a bad one."""
    refused = itertools.cycle(bad)
    for count in itertools.count(1):
        index = count % len(good)
        yield (-1, next(refused)) if count % BAD_EVERY == 0 else (index, good[index])


class Soak:
    """Counts the frames, and compares the detections of each with the first ones.

    Attributes:
        different: frames with other detections than before.
        taken: bad frames that were taken for images.
    """

    def __init__(self, engine: Path, good: List[Any], bad: List[Any]) -> None:
        self.engine, self.source = engine, mixed(good, bad)
        self.frames = self.refused = self.different = self.taken = self.connections = 0
        detector = Detector(engine)
        self.expected = [detector(frame) for frame in good]
        self.found = sum(map(len, self.expected))

    def check(self, index: int, detections: Any) -> None:
        self.frames += 1
        expected = self.expected[index]
        same = np.array_equal(detections.boxes, expected.boxes) and np.array_equal(detections.scores, expected.scores)
        self.different += not same

    def run_single(self, number: int) -> None:
        """Detects in so many frames, one by one."""
        detector = Detector(self.engine)
        for index, frame in itertools.islice(self.source, number):
            try:
                detections = detector(frame)
            except UserError:
                assert index < 0, f"frame {index} was refused"
                self.refused += 1
                continue
            if index < 0:
                self.taken += 1
            else:
                self.check(index, detections)

    def run_stream(self, number: int) -> None:
        """Detects in so many frames as streams in throughput mode; a bad frame ends a stream, and a new one begins."""
        detector = Detector(self.engine, throughput=True)
        source = itertools.islice(self.source, number)
        while True:
            given: List[int] = []

            def frames(given: List[int] = given) -> Iterable[Any]:
                for index, frame in source:
                    given.append(index)
                    yield frame

            done = 0
            try:
                for detections in detector.stream(frames()):
                    self.check(given[done], detections)
                    done += 1
                return
            except UserError:
                assert given[-1] < 0 or -1 in given[done:], "a good frame was refused"
                self.refused += 1
                self.frames += len(given) - done - 1  # those in flight, whose detections are lost

    def run_video(self, clip: Path) -> None:
        """Reads a live video whose connection drops once and whose end comes with the second connection's."""
        detector = Detector(self.engine)

        def connect() -> Any:
            self.connections += 1
            return cv2.VideoCapture(str(clip))

        with contextlib.redirect_stderr(io.StringIO()), FrameReader(
            Video("clip", connect(), True, reopen=connect)
        ) as video:
            for frame in video:
                detector(frame.pixels)


def write_clip(path: Path, images: Path) -> Path:
    """Writes a short video of the first of the images."""
    pixels = cv2.resize(cv2.imread(str(sorted(images.iterdir())[0])), (160, 120))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (160, 120))
    for _ in range(VIDEO_FRAMES):
        writer.write(pixels)
    writer.release()
    return path


def run_soak(engine: Path, images: Path, frames: int) -> int:
    """Runs all parts and prints the figures; returns the exit status."""
    good = cut_frames(images, GOOD_FRAMES)
    cut = next(frame for frame in good if isinstance(frame, bytes))
    soak = Soak(engine, good, [*BAD, cut[: len(cut) // 3]])
    readings: List[Reading] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", images)
        for part in range(1, PARTS + 1):
            share = frames * part // PARTS - frames * (part - 1) // PARTS
            soak.run_single(share // 2)
            soak.run_stream(share - share // 2)
            soak.run_video(clip)
            readings.append(reading())
            print(
                f"{soak.frames + soak.refused:9d} frames {time.monotonic() - started:6.0f} s  "
                f"memory {readings[-1].memory:7.1f} MiB  descriptors {readings[-1].descriptors}  "
                f"threads {readings[-1].threads}",
                flush=True,
            )
    settled = readings[SETTLED:]
    memory = np.array([row.memory for row in settled])
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    grown = [settled[-1].descriptors - settled[0].descriptors, settled[-1].threads - settled[0].threads]
    print(f"{soak.frames} good frames with {soak.found} detections in {len(good)} of them, {soak.refused} bad ones")
    print(f"detections that differ: {soak.different}, bad frames taken: {soak.taken}, connections: {soak.connections}")
    print(
        f"memory from part {SETTLED} on: {memory.min():.1f} to {memory.max():.1f} MiB, {PARTS * slope:+.1f} MiB a soak"
    )
    print(f"descriptors {grown[0]:+d}, threads {grown[1]:+d}; {threading.active_count()} threads of Python")
    return int(soak.different > 0 or soak.taken > 0 or max(grown) > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", metavar="ENGINE", type=Path, help="a detector's folder")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a folder of images")
    parser.add_argument("--frames", type=int, default=1_000_000)
    args = parser.parse_args()
    sys.exit(run_soak(args.engine, args.images, args.frames))


if __name__ == "__main__":
    main()
