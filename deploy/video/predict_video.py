"""Runs `effedge predict` on video: every frame of a file, the newest of a live source, until the end or Ctrl-C.

However it ends - the end of a file, Ctrl-C, a camera that is unplugged, a disk that is all but full - all results up to
there are kept, as a video that plays and lines that are whole. Nothing is written only if no frame came.
"""

import contextlib
import itertools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, List, Optional, Sequence

from effedge.deploy.common.cli import STDOUT, UserError, handled_signals, interrupt, stdout_error
from effedge.deploy.common.files import atomic_file
from effedge.deploy.common.json_lines import JsonLines, open_json_lines
from effedge.deploy.video.frame_reader import Frame, FrameReader
from effedge.deploy.video.progress import Progress, closing_line
from effedge.deploy.video.source import Video, display_name, local_file, open_video
from effedge.deploy.video.writer import SUFFIX, VideoWriter, check_room

if TYPE_CHECKING:
    from effedge.deploy.image.records import Model, Result

USUAL_FPS = 30.0  # of a video whose source does not say
TRIAL_RUNS = 3


def predict_video(
    load: Callable[[], "Model"], source: str, out: Optional[Path], json_path: Optional[Path], quiet: bool
) -> None:
    """Runs the engine that `load` returns on a video, draws into the .mp4 `out`, and writes `json_path`.

    Raises UserError for a source that cannot be opened and an output that cannot be written; and, after all was
    written, for a source that ended early.
    """
    out = None if out is None else drawn_path(source, out)
    check_outputs(source, out, json_path)
    video = open_video(source)
    model = load()
    reader = FrameReader(video)
    progress = Progress(video, quiet, talking=json_path != STDOUT)
    files = [path for path in (out, json_path) if path is not None and path != STDOUT]
    with open_json_lines(json_path) as lines:
        try:
            with opened_writer(out, video) as writer:
                with reader, ended_by_signals(reader.stop) as signals:
                    problem = VideoRun(model, video, writer, lines, files).run(reader, progress)
                progress.clear()
                if not progress.done:
                    raise UserError(problem or f"interrupted before the first frame of '{video.name}'")
        except UserError as error:
            if not progress.done:
                raise
            problem, out = str(error), None  # the video; the lines are kept
    told = sys.stderr if json_path == STDOUT else sys.stdout
    print(closing_line(progress, reader), file=told)
    for kind, path in (("video", out), ("json", json_path)):
        if path not in (None, STDOUT):
            print(f"{kind}: {path}", file=told)
    told.flush()
    if signals and not video.live and problem is None:
        problem = f"interrupted after {progress.done} frames of '{video.name}', which are kept"
    if problem is not None:
        raise UserError(problem)


def drawn_path(source: str, out: Path) -> Path:
    """Returns the .mp4 that --out stands for: itself, or a file in the folder that it names. UserError for another
    suffix."""
    suffix = out.suffix.lower()
    if suffix == SUFFIX:
        return out
    if suffix and not out.is_dir():
        raise UserError(f"--out {out}: the source is video, expected a file such as drawn{SUFFIX}, or a folder")
    path = local_file(source)
    return out / (("live" if path is None else path.stem) + SUFFIX)


def check_outputs(source: str, out: Optional[Path], json_path: Optional[Path]) -> None:
    """Raises UserError if an output cannot be written, or would replace the source or the other output."""
    taken = [local_file(source)]
    for option, output in (("--out", out), ("--json", json_path)):
        if output is None or output == STDOUT:
            continue
        if os.path.realpath(output) in {os.path.realpath(other) for other in taken if other is not None}:
            other_files = f"'{display_name(source)}' or the other output"
            raise UserError(f"{option} {output} would replace {other_files}: choose another")
        taken.append(output)
        check_room(output.parent)


@contextlib.contextmanager
def opened_writer(path: Optional[Path], video: Video) -> Iterator[Optional[VideoWriter]]:
    """Yields a writer of the video at `path`, which is there once the block has ended well; None without a path."""
    if path is None:
        yield None
        return
    with atomic_file(path) as temporary:
        length = video.frames / video.fps if video.frames and video.fps else None
        writer = VideoWriter(temporary, video.fps or USUAL_FPS, length)
        yield writer
        writer.close()


class VideoRun:
    """The steps of each frame: engine, drawing, video, JSON line."""

    def __init__(
        self,
        model: "Model",
        video: Video,
        writer: Optional[VideoWriter],
        lines: Optional[JsonLines],
        files: List[Path],
    ) -> None:
        """`files` are the outputs, whose disks must have room."""
        self.model, self.video, self.writer, self.lines, self.files = model, video, writer, lines, files
        self.first_arrival: Optional[float] = None

    def run(self, reader: FrameReader, progress: "Progress") -> Optional[str]:
        """Takes all frames. Returns the problem that ended them early, or None."""
        frames = iter(reader)
        # Frames of a live source are taken one by one, so that no frame waits for others.
        batch = 1 if self.video.live else self.model.batch
        first = next(frames, None)
        if first is not None:
            if self.video.live:
                self.warm_up(first)
                newer = next(frames, None)
                if newer is not None:
                    first = newer
                    reader.dropped += 1
            progress.start()
        remaining = itertools.chain([] if first is None else [first], frames)
        try:
            for taken in iter(lambda: list(itertools.islice(remaining, batch)), []):
                for file in self.files:
                    check_room(file.parent)
                started = time.perf_counter()
                results: Sequence[Result] = self.model([frame.pixels for frame in taken])
                for frame, result in zip(taken, results):
                    self.write(frame, result, progress, 1000 * (time.perf_counter() - started) / len(taken))
        except BrokenPipeError:  # the reader of the lines has gone
            return "nobody reads the lines of --json - any more"
        except OSError as error:
            output = "the lines of --json" if stdout_error() is None else "to standard output"
            return f"cannot write {output}: {error.strerror}"
        except UserError as error:
            return str(error)
        return None if reader.stopped else reader.end_reason()

    def warm_up(self, first: Frame) -> None:
        """Runs the engine some times on the first frame of a live source, and sets the rate of the written video.

        The engine's first run is slow, and the video is written at the rate that the engine can keep.
        """
        times = []
        for _ in range(1 + TRIAL_RUNS):
            started = time.perf_counter()
            self.model(first.pixels)
            times.append(time.perf_counter() - started)
        if self.writer is not None:
            self.writer.fps = max(1.0, min(self.video.fps or USUAL_FPS, round(1 / min(times[1:]))))

    def write(self, frame: Frame, result: "Result", progress: "Progress", run_ms: float) -> None:
        """Writes the result of a frame to all outputs."""
        record = result.to_dict()
        if self.writer is not None:
            seconds = None if self.video.live else frame.seconds
            self.writer.write(result.drawn_on(frame.pixels), self.times(frame), seconds)
        if self.lines is not None:
            self.lines.write({"frame": frame.number, "time": round(frame.seconds, 3), **record})
        age = 1000 * (time.perf_counter() - frame.arrival)
        progress.add(frame, record, age if self.video.live else run_ms)

    def times(self, frame: Frame) -> int:
        """Returns how many times a frame is written to the video, so that a live source plays as fast as it was."""
        if not self.video.live or self.writer is None:
            return 1
        if self.first_arrival is None:
            self.first_arrival = frame.arrival
        return max(1, round((frame.arrival - self.first_arrival) * self.writer.fps) + 1 - self.writer.written)


@contextlib.contextmanager
def ended_by_signals(stop: Callable[[], None]) -> Iterator[List[int]]:
    """Lets the first Ctrl-C, SIGTERM or SIGHUP within the block call `stop`, and yields the list of their numbers. The
    second raises KeyboardInterrupt."""
    count = itertools.count()

    def handle(number: int) -> None:
        if next(count):
            interrupt(number)
        stop()

    with handled_signals(handle) as noted:
        yield noted
