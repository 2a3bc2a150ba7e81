"""Runs an engine on images or video, and prints, draws or writes its detections or classes.

    effedge predict ENGINE SOURCE

SOURCE is an image or a folder of images; or a video file, a camera (/dev/video0, camera:0, csi:0 on a Jetson), a
stream (rtsp://..., http://...) or a GStreamer pipeline (... ! appsink).

Images: prints one line an image. --out DIR takes the images with the boxes drawn in, --json FILE all detections, in the
original images' pixels:

    [{"image": "a.jpg", "detections": [{"box": [x0, y0, x1, y1], "score": 0.93, "class_id": 7, "label": "7"}]}]

and for classifiers, the five best: {"image": "a.jpg", "classes": [{"class_id": 7, "label": "7", "score": 0.93}]}.
--json - prints the JSON, of a video each line as it comes, and all else goes to standard error.
--classes reports only some of a detector's, by label or id; --class-agnostic an object once, as its best class.
Boxes are rounded to 1/100 pixel, scores to six decimals. Images that cannot be read are listed at the end, and the exit
status is 1; if none can, nothing is written, and it is 2.

Video: every frame of a file, the newest of a camera or a stream; the number of dropped frames, the frames a second and
the latency are printed at the end. --out FILE.mp4 is the video with the boxes drawn in, each frame of a file at its own
time, without sound; --json FILE has a line a frame:

    {"frame": 12, "time": 0.48, "detections": [...]}

The time is in seconds from a file's start; for cameras and streams it is the time of the day (Unix time). Ctrl-C ends
the run, as SIGTERM and SIGHUP do, and what was written until then is whole. Video needs OpenCV (pip install
'effedge[video]').
"""

# Modules that need NumPy, Pillow or the backend are imported in the functions, so that --help and mistakes answer at
# once.
import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Tuple

from effedge.deploy.common.cli import Parser, UserError, number_within
from effedge.deploy.common.files import atomic_file, atomic_files
from effedge.deploy.common.messages import log, printable
from effedge.deploy.common.paths import json_file, output_path
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.deploy.runtime.selection import MAX_DETECTIONS, THRESHOLD

if TYPE_CHECKING:
    import numpy as np

    from effedge.deploy.image.records import ImageRecord, Model, Result

EXIT_PARTLY_DONE = 1  # some images could not be read
# Suffixes whose drawings keep the image's name; images of other formats become NAME.png.
KEPT_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def probability(text: str) -> float:
    """Parses an argument that is a number from 0 to 1."""
    return number_within(text, 1, "a number from 0 to 1")


def positive_count(text: str) -> int:
    """Parses an argument that is a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' was given, expected a whole number from 1 on")
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="an engine's folder, such as build/d0-digits/int8-cpu")
    help = "an image, a folder of images (not its sub-folders), or video"
    parser.add_argument("source", metavar="SOURCE", help=help)
    help = "draw the detections or classes into this folder, or this FILE.mp4 for video"
    parser.add_argument("--out", type=output_path, metavar="DIR", help=help)
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write detections or classes to this file")
    parser.add_argument(
        "--threshold", metavar="T", type=probability, help=f"lowest score to report (detectors; default {THRESHOLD})"
    )
    help = "report only these classes, by label or id (detectors)"
    parser.add_argument("--classes", metavar="CLASS", nargs="+", help=help)
    help = f"most detections of an image (detectors; default {MAX_DETECTIONS})"
    parser.add_argument("--max-detections", metavar="N", type=positive_count, help=help)
    help = "boxes of different classes suppress each other too (detectors)"
    parser.add_argument("--class-agnostic", action="store_true", default=None, help=help)
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the summary")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may hold bytes that are no UTF-8
            stream.reconfigure(errors="backslashreplace")
    from effedge.deploy.video.source import is_video

    if is_video(args.source):
        from effedge.deploy.video.predict_video import predict_video

        loaded = partial(load, args.engine, selection_options(args))
        predict_video(loaded, args.source, args.out, args.json, args.quiet)
        return
    from effedge.deploy.image.files import find_images, read_images

    sources = find_images(args.source)
    drawings = name_drawings(sources, args.out) if args.out is not None else []
    check_json(args.json, sources + drawings)
    model = load(args.engine, selection_options(args))
    # Both outputs are begun first, so that one that cannot be written is known before the work, and ended last.
    with contextlib.ExitStack() as outputs:
        json_file = outputs.enter_context(atomic_file(args.json)) if args.json is not None else None
        scratch = outputs.enter_context(atomic_files(args.out)) if args.out is not None else None
        unread: List[str] = []
        drawn = {source: scratch / path.name for source, path in zip(sources, drawings)} if scratch else {}
        records = predict(model, read_images(sources, unread), drawn, args.quiet)
        if not records:
            none = f"none of the {len(sources)} images can be read; the first: " if len(sources) > 1 else ""
            raise UserError(none + unread[0])
        if json_file is not None:
            json_file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for kind, path in (("drawings", args.out), ("json", args.json)):
        if path is not None:
            print(f"{kind}: {path}")
    sys.stdout.flush()
    for line in unread:
        log.warning(f"error: {line}")
    if unread:
        log.warning(f"error: {len(unread)} of {len(sources)} images could not be read; the others are done")
        sys.exit(EXIT_PARTLY_DONE)


def name_drawings(sources: List[Path], out: Path) -> List[Path]:
    """Names the drawing of every image. Raises UserError if one would replace a source or another drawing."""
    names = [path.name if path.suffix.lower() in KEPT_SUFFIXES else path.name + ".png" for path in sources]
    drawings = [out / name for name in names]
    [(name, times)] = Counter(names).most_common(1)
    if times > 1:
        raise UserError(f"two images would both be drawn to '{out / name}': rename one of them")
    originals = set(map(os.path.realpath, sources))
    for drawing in drawings:
        if os.path.realpath(drawing) in originals:
            raise UserError(f"--out {out} would replace the image '{drawing}': choose another folder")
        if drawing.is_dir():
            raise UserError(f"cannot draw to '{drawing}', it is a folder: choose another --out")
    return drawings


def check_json(path: Optional[Path], images: List[Path]) -> None:
    """Raises UserError if --json would replace an image or a drawing."""
    if path is not None and os.path.realpath(path) in map(os.path.realpath, images):
        raise UserError(f"--json {path} would replace an image: choose another file")


def selection_options(args: argparse.Namespace) -> Dict[str, Any]:
    """Returns the options of a Detector that were given."""
    options = {name: getattr(args, name) for name in ("threshold", "classes", "max_detections", "class_agnostic")}
    return {name: value for name, value in options.items() if value is not None}


def load(folder: str, options: Dict[str, Any]) -> "Model":
    """Loads an engine folder. Raises UserError for a detector's `options` where it is a classifier's."""
    if parse_manifest(folder)["spec"].get("task") == "classification":
        from effedge.deploy.runtime.classifier import Classifier

        for name in options:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} is for detectors and '{folder}' is a classifier: leave it out")
        return Classifier(folder)
    from effedge.deploy.runtime.detector import Detector

    return Detector(folder, **options)


def predict(
    model: "Model", images: Iterator[Tuple[Path, "np.ndarray"]], drawings: Dict[Path, Path], quiet: bool
) -> List["ImageRecord"]:
    """Runs every image, prints a line for each and the summary, draws into `drawings` (by the image's path, or empty),
    and returns the records for the JSON."""
    import numpy as np

    from effedge.deploy.image.records import summary

    records: List[ImageRecord] = []
    milliseconds: List[float] = []
    while True:
        started = time.perf_counter()
        taken = list(itertools.islice(images, model.batch))
        if not taken:
            break
        results: Sequence[Result] = model([image for _, image in taken])
        milliseconds += [1000 * (time.perf_counter() - started) / len(taken)] * len(taken)
        for (path, image), result in zip(taken, results):
            if drawings:
                result.save(drawings[path], image)
            records.append({"image": str(path), **result.to_dict()})
            if not quiet:
                print(f"{printable(str(path))}: {summary(records[-1])}", flush=True)
    if records:
        count = f"{len(records)} images" if len(records) > 1 else "1 image"
        print(f"{count}, median {np.median(milliseconds):.1f} ms an image (reading, resizing, engine, selection)")
    return records
