"""effedge.deploy.predict on video: every frame of a file, the newest of what is live, until the end or Ctrl-C.

However it ends - the end of a file, Ctrl-C, a camera that is unplugged, a disk that is all but full - what was done up
to there is kept, as a video that plays and lines that are whole. Only where not one frame came is nothing written.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import whole_file
from effedge.deploy.common.json_lines import STDOUT, JsonLines, opened_lines
from effedge.deploy.image.records import as_record
from effedge.deploy.video.frame_reader import Frame, FrameReader
from effedge.deploy.video.progress import Progress, closing_line
from effedge.deploy.video.source import Video, local_file, open_video, shown
from effedge.deploy.video.writer import SUFFIX, VideoWriter, check_room

if TYPE_CHECKING:
    from effedge.deploy.image.records import Model, Result

USUAL_FPS = 30.0  # of a video whose source does not say
TRIAL_RUNS = 3


def predict_video(
    load: Callable[[], "Model"], source: str, out: Optional[str], json_path: Optional[str], quiet: bool
) -> None:
    """Run the engine that `load` gives on a video, draw into the .mp4 `out`, write `json_path` ("-": standard output).

    Raises UserError for what cannot be opened or written; and, after all was written, for a source that ended before
    its time.
    """
    out = None if out is None else drawn_path(source, out)
    check_outputs(source, out, json_path)
    video = open_video(source)
    model = load()
    reader = FrameReader(video)
    progress = Progress(video, quiet, talking=json_path != STDOUT)
    places = [Path(path) for path in (out, json_path) if path is not None and path != STDOUT]
    with opened_lines(json_path) as lines:
        try:
            with opened_writer(out, video) as writer:
                with reader, ended_by_signals(reader.stop) as signals:
                    problem = Run(model, video, writer, lines, places).through(reader, progress)
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


def drawn_path(source: str, out: str) -> str:
    """The .mp4 that --out stands for: itself, or one in the folder that it names. UserError for another suffix."""
    suffix = Path(out).suffix.lower()
    if suffix == SUFFIX:
        return out
    if suffix and not Path(out).is_dir():
        raise UserError(f"--out {out}: the source is video, expected a file such as drawn{SUFFIX}, or a folder")
    path = local_file(source)
    return str(Path(out) / (("live" if path is None else path.stem) + SUFFIX))


def check_outputs(source: str, out: Optional[str], json_path: Optional[str]) -> None:
    """UserError if an output cannot be what was asked for, or would replace the source or the other."""
    taken = [local_file(source)]
    for option, given in (("--out", out), ("--json", json_path)):
        if given is None or given == STDOUT:
            continue
        path = Path(given)
        if path.exists() and not path.is_file():
            raise UserError(f"{option} {given} is no file that can be replaced: give another (--json - prints)")
        if path.resolve() in {other.resolve() for other in taken if other is not None}:
            raise UserError(f"{option} {given} would replace '{shown(source)}' or the other output: choose another")
        taken.append(path)
        check_room(path.parent)


@contextlib.contextmanager
def opened_writer(path: Optional[str], video: Video) -> Iterator[Optional[VideoWriter]]:
    if path is None:
        yield None
        return
    with whole_file(path) as temporary:
        writer = VideoWriter(temporary, video.fps or USUAL_FPS)
        yield writer
        writer.close()


class Run:
    """The way of each frame: engine, drawing, video, JSON line."""

    def __init__(
        self,
        model: "Model",
        video: Video,
        writer: Optional[VideoWriter],
        lines: Optional[JsonLines],
        places: List[Path],
    ) -> None:
        """`places` are the files whose disks must have room."""
        self.model, self.video, self.writer, self.lines, self.places = model, video, writer, lines, places
        self.first: Optional[float] = None

    def through(self, reader: FrameReader, progress: "Progress") -> Optional[str]:
        """Take all frames; what was wrong at the end, or None."""
        frames = iter(reader)
        # What is live is taken one by one, so that no frame waits for others.
        batch = 1 if self.video.live else self.model.batch
        first = next(frames, None)
        if first is not None:
            if self.video.live:
                self.settle(first)
                newer = next(frames, None)
                if newer is not None:
                    first = newer
                    reader.dropped += 1
            progress.start()
        remaining = itertools.chain([] if first is None else [first], frames)
        try:
            for taken in iter(lambda: list(itertools.islice(remaining, batch)), []):
                for place in self.places:
                    check_room(place.parent)
                started = time.perf_counter()
                results: Sequence[Result] = list(self.model([frame.pixels for frame in taken]))
                for frame, result in zip(taken, results):
                    self.write(frame, result, progress, 1000 * (time.perf_counter() - started) / len(taken))
        except BrokenPipeError:  # who read the lines has gone
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python complains once more when it exits
            return "nobody reads the lines of --json - any more"
        except OSError as error:
            return f"cannot write the lines of --json: {error.strerror}"
        except UserError as error:
            return str(error)
        return None if reader.stopped else reader.end_reason()

    def settle(self, first: Frame) -> None:
        """Run the engine some times on the first frame: the first run of all is slow, and a live video is written at
        the rate that the engine can keep."""
        times = []
        for _ in range(1 + TRIAL_RUNS):
            started = time.perf_counter()
            list(self.model([first.pixels]))
            times.append(time.perf_counter() - started)
        if self.writer is not None:
            self.writer.fps = max(1.0, min(self.video.fps or USUAL_FPS, round(1 / min(times[1:]))))

    def write(self, frame: Frame, result: "Result", progress: "Progress", run_ms: float) -> None:
        record = as_record(result)
        if self.writer is not None and not isinstance(result, list):
            from effedge.deploy.image.draw import draw_detections

            self.writer.write(draw_detections(frame.pixels, result), self.times(frame))
        if self.lines is not None:
            self.lines.write({"frame": frame.number, "time": round(frame.seconds, 3), **record})
        age = 1000 * (time.perf_counter() - frame.came)
        progress.add(frame, record, age if self.video.live else run_ms)

    def times(self, frame: Frame) -> int:
        """How often a frame stands in the video: of what is live until the next, so that it plays as fast as it was."""
        if not self.video.live or self.writer is None:
            return 1
        if self.first is None:
            self.first = frame.came
        return max(1, round((frame.came - self.first) * self.writer.fps) + 1 - self.writer.written)


@contextlib.contextmanager
def ended_by_signals(stop: Callable[[], None]) -> Iterator[List[int]]:
    """Within the block the first Ctrl-C, or SIGTERM, calls `stop`, and its number is put into the list that is yielded;
    the second is as ever. What is ignored stays ignored; off the main thread nothing is changed."""
    noted: List[int] = []
    previous: Dict[int, Any] = {}

    def handler(number: int, _frame: Any) -> None:
        noted.append(number)
        signal.signal(number, previous[number])
        stop()

    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield noted
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
