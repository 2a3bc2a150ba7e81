"""Compares the image sizes that annotations state with the files, and moves boxes into the files' upright pixels.

The boxes of a `Record` are in pixels of the upright image, as `effedge.deploy.image.files.open_image` returns it. The
annotations' own width and height show what their boxes refer to:

1. The upright image's size: the boxes are right.
2. The size of the stored pixels, before EXIF's orientation turns them by a quarter: the boxes are turned too.
3. Both, where the orientation mirrors or turns by a half, or the image is square: the other images of the data set
   decide. Without any that can, the boxes count as upright, and a note says so; if those differ, it is an error.
4. One of the two by a factor, as after a resize of the images: the boxes are scaled. Boxes that reach over the stated
   size, or that would all lie within the smaller files, show that the factor is not theirs: it is an error.
5. Any other size, of another image: it is an error. No size, or one of 0, states nothing.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effedge.deploy.common.messages import track
from effedge.deploy.image.files import TURNS, open_head, orientation
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import Record

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # the chunks that Pillow finds an orientation in
SAME = 2.0  # pixels; tools that count from 1 or round are off by that
EDGE = 1.0  # pixels; rounding alone puts boxes that far over the edge
REMEDY = "give the images that were annotated, or take width and height out if the boxes are in the files' pixels"

Size = tuple[float, float]  # width, height
UPRIGHT, STORED = "upright", "stored"


class FileSize(NamedTuple):
    """The size (width, height) of an image's stored pixels, and the EXIF orientation that makes it upright."""

    stored: tuple[int, int]
    orientation: int | None

    @property
    def upright(self) -> tuple[int, int]:
        """The size (width, height) of the image as a viewer shows it."""
        return (self.stored[1], self.stored[0]) if self.orientation in SIDEWAYS else self.stored


def read_size(path: Path) -> FileSize:
    """Reads an image's size from the head of its file; raises whatever `open_head` does for no image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_head(path) as image:
            # Pillow decodes a PNG for its EXIF, which may stand behind the pixels.
            may_turn = image.format != "PNG" or _has_metadata(path)
            number = orientation(image) if may_turn else None
            # From 10.4 on, Pillow gives the upright size of a TIFF, and of no other format.
            tags = getattr(image, "tag_v2", {})
            return FileSize((tags.get(256, image.width), tags.get(257, image.height)), number)


def _has_metadata(path: Path) -> bool:
    """Returns True for a PNG with one of the chunks PNG_METADATA (PNG 1.2, section 3.2)."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in PNG_METADATA:
                return True
            file.seek(length + 4, 1)
    return False


def stated_size(width: Any, height: Any) -> Size | None:
    """Returns the size that annotations state, as numbers or text; None where they state none."""
    try:
        size = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if all(0 < side < float("inf") for side in size) else None


def to_upright_pixels(
    records: Sequence[Record], stated: Sequence[Size | None], problems: Problems
) -> tuple[list[Record], list[str]]:
    """Moves the boxes and areas of records into the upright pixels of their files, by the numbered cases above.

    Args:
        stated: the size of each image as its annotation states it.
        problems: collects the sizes that explain nothing; their records stay as they are.

    Returns:
        The records, and notes on the boxes that were turned or scaled, a line each.
    """
    compared = []
    pairs = list(zip(records, stated, strict=True))
    for index, (record, size) in enumerate(track(pairs, desc="reading image sizes", unit="image")):
        if size is None or not len(record.boxes):
            continue
        try:
            compared.append(Comparison(index, record, size, read_size(record.path)))
        except Exception:  # a missing or damaged file is explained by those who check or open it
            continue
    return _moved(list(records), compared, problems)


class Comparison(NamedTuple):
    """A record, the stated size of its image, and its file's."""

    place: int
    record: Record
    stated: Size
    file: FileSize

    @property
    def frames(self) -> list[str]:
        """What the stated size may be of: UPRIGHT, STORED, both or neither."""
        sizes = {UPRIGHT: self.file.upright, STORED: self.file.stored}
        exact = [frame for frame, size in sizes.items() if _is_same(self.stated, size)]
        return exact or [frame for frame, size in sizes.items() if _is_scaled(self.stated, size)]

    @property
    def turn(self) -> tuple[bool, bool, bool] | None:
        """The turn of the stored pixels; None if they are upright."""
        return TURNS.get(self.file.orientation or 1)

    def file_size(self, frame: str) -> tuple[int, int]:
        """Returns the file's size (width, height): UPRIGHT or STORED."""
        return self.file.upright if frame == UPRIGHT else self.file.stored

    def factors(self, frame: str) -> tuple[float, float]:
        """Returns the factors from the stated size to the file's, of width and height; 1 where they are the same."""
        size = self.file_size(frame)
        if _is_same(self.stated, size):
            return 1.0, 1.0
        return size[0] / self.stated[0], size[1] / self.stated[1]

    def sizes(self) -> str:
        """Returns both sizes in words."""
        (w, h), (width, height) = self.stated, self.file.upright
        return f"'{self.record.path}' is {width} x {height} pixels and not {w:g} x {h:g}, as its annotation says"


def _is_same(a: Size, b: Size) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= SAME


def _is_scaled(a: Size, b: Size) -> bool:
    """Returns True if one size is the other times a factor, but for a pixel of rounding of the smaller one."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def _moved(records: list[Record], compared: Sequence[Comparison], problems: Problems) -> tuple[list[Record], list[str]]:
    """Moves the boxes of `compared` in `records`; returns these and the notes."""
    votes = {item.frames[0] for item in compared if item.turn and len(item.frames) == 1}
    # Smaller files show that boxes are of the stated size if one of their boxes would lie outside.
    over = any(_reaches_over(item, item.file_size(item.frames[0])) for item in compared if _shrunk(item))
    turned, scaled, unknown = [], [], []
    for item in compared:
        frames = item.frames
        if not frames:
            problems.add("size", f"the image {item.sizes()}, by no turn and no scale: {REMEDY}")
            continue
        if item.turn and len(frames) == 2:
            if len(votes) > 1:
                line = f"'{item.record.path}' is turned by EXIF, and its size does not tell if its boxes are too"
                problems.add("EXIF", f"{line}; of the other images some are: give images without an EXIF orientation")
                continue
            frames = list(votes) or [UPRIGHT]
            if not votes:
                unknown.append(item)
        frame = frames[0]
        factors = item.factors(frame)
        if factors != (1.0, 1.0):
            if _reaches_over(item, item.stated) or (_shrunk(item) and not over):
                line = f"the image {item.sizes()}, and its boxes do not tell which of the two they are of"
                problems.add("scale", f"{line}: {REMEDY}")
                continue
            scaled.append(item)
        if frame == STORED and item.turn:
            turned.append(item)
        records[item.place] = _move(item, factors, turn=frame == STORED)
    return records, _notes(turned, scaled, unknown)


def _notes(turned: Sequence[Comparison], scaled: Sequence[Comparison], unknown: Sequence[Comparison]) -> list[str]:
    """Counts the images whose boxes were moved, or would have been if that were known; a line each."""
    notes = []
    if turned:
        notes.append(
            f"{len(turned)} images are turned by EXIF and annotated as they were before, the first is "
            f"'{turned[0].record.path}': their boxes are turned too"
        )
    if scaled:
        notes.append(f"{len(scaled)} images were resized, and their boxes are scaled: the first, {scaled[0].sizes()}")
    if unknown:
        notes.append(
            f"{len(unknown)} images are turned by EXIF, the first is '{unknown[0].record.path}', and no size tells if "
            "their boxes are of the turned images: they are taken as such"
        )
    return notes


def _shrunk(item: Comparison) -> bool:
    """Returns True if the file is smaller than the annotation says."""
    return len(item.frames) > 0 and item.factors(item.frames[0])[0] < 1


def _reaches_over(item: Comparison, size: Size) -> bool:
    return bool((item.record.boxes[:, 2:] > np.add(size, EDGE)).any())


def _move(item: Comparison, factors: tuple[float, float], turn: bool) -> Record:
    """Scales a record's boxes and areas by `factors` of width and height; turns the boxes with their image if `turn`.

    Stored pixels (x, y) of an image of orientation 6 become (height - y, x), for example.
    """
    record = item.record
    boxes = record.boxes * np.array([*factors, *factors], np.float32)
    if turn and item.turn:
        transpose, mirror_x, mirror_y = item.turn
        width, height = item.file.upright
        if transpose:
            boxes = boxes[:, [1, 0, 3, 2]]
        if mirror_x:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        if mirror_y:
            boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    return record._replace(boxes=boxes, areas=record.areas * np.float32(factors[0] * factors[1]))
