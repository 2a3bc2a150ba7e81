"""Reads Pascal VOC's folder (Everingham et al. 2010): Annotations/*.xml, JPEGImages and lists in ImageSets/Main/*.txt.

VOC's boxes are integer pixels counted from 1, the last one included: (1, 1, 1, 1) is the first pixel, xyxy (0, 0, 1, 1)
in the records. Class ids count the names in alphabetical order.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_text
from effedge.deploy.common.paths import inside, why_not
from effedge.deploy.image.files import SUFFIXES, is_hidden
from effedge.pipeline.datasets.image_sizes import Size, stated_size, to_upright_pixels
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import LARGEST, DataSet, Record, image_path, require_files

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_voc(path: Path) -> bool:
    """Returns True for a VOC folder, or one of its lists."""
    return (path / "Annotations").is_dir() or (path.suffix == ".txt" and path.parent.parent.name == "ImageSets")


def read_voc(path: Path, images: Path | None = None, problems: Problems | None = None) -> DataSet:
    """Reads the data set of a VOC folder (all annotations), or of one of its lists, such as ImageSets/Main/val.txt.

    Args:
        path: the folder, or the list.
        images: the folder of the images, JPEGImages by default.
        problems: collects malformed annotations, which are left out, and missing images.

    Raises:
        UserError: no annotations. Without `problems`, BrokenData for the mistakes.
    """
    root = path if path.is_dir() else path.parent.parent.parent
    annotations = root / "Annotations"
    if path.is_dir():
        names = sorted(file.stem for file in annotations.glob("*.xml") if not is_hidden(Path(file.name)))
    else:
        # A class's own list has a second column: 1, -1 or 0 (difficult).
        lines = read_text(path, "a list of ImageSets/Main").splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
        for name in names:
            inside(annotations, f"{name}.xml", f"'{path}'")
    if not names:
        raise UserError(f"'{path}' names no images: expected Annotations/*.xml, or a list in ImageSets/Main")
    folder = images or root / "JPEGImages"
    collected, parsed = problems or Problems(), []
    for name in names:
        try:
            annotation = _parse(annotations / f"{name}.xml", folder)
            if image_path(folder, annotation.image_name, annotations / f"{name}.xml", collected) is not None:
                parsed.append(annotation)
        except Malformed as error:
            collected.add(error.kind, str(error))
    labels = sorted({name for annotation in parsed for name, _, _ in annotation.objects})
    records = [_record(annotation.image, annotation.objects, labels) for annotation in parsed]
    require_files(records, "give their folder with --images", collected)
    records, notes = to_upright_pixels(records, [annotation.size for annotation in parsed], collected)
    if problems is None:
        collected.refuse()
    without_area = sum(len(annotation.objects) for annotation in parsed) - sum(len(record.boxes) for record in records)
    if without_area:
        notes.append(f"{without_area} objects have a box without area and are left out")
    if stale := [annotation for annotation in parsed if annotation.is_stale]:
        first = f"'{stale[0].filename}', where '{stale[0].image}' has the annotation's own name"
        notes.append(f"{len(stale)} annotations name another image in <filename>, the first is {first}")
    return DataSet("detection", list(labels), records, notes)


class Malformed(UserError):
    """The error of an annotation file that cannot be used, with the kind of its mistake."""

    def __init__(self, kind: str, line: str):
        super().__init__(line)
        self.kind = kind


Object = tuple[str, tuple[float, ...], bool]  # name, xyxy, difficult


class Annotation(NamedTuple):
    """An annotation file: the folder of its image and its name there, its <filename>, the size that it states, and its
    objects."""

    folder: Path
    image_name: str
    filename: str
    size: Size | None
    objects: list[Object]

    @property
    def image(self) -> Path:
        """The path of the image."""
        return self.folder / self.image_name

    @property
    def is_stale(self) -> bool:
        """True if <filename> is of another image; a suffix and a folder, perhaps Windows', do not count."""
        return bool(self.filename) and PureWindowsPath(self.filename).stem != self.image.stem


def _parse(path: Path, folder: Path) -> Annotation:
    """Parses an annotation file."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise Malformed("missing", f"annotation '{path}' does not exist, though the list names it") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: of its encoding
        raise Malformed("XML", f"annotation '{path}' is no XML ({error}): expected Pascal VOC's, in UTF-8") from error
    filename = (root.findtext("filename") or "").strip()
    image_name = _image_name(filename, path.stem, folder)
    size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
    return Annotation(folder, image_name, filename, size, [_object(path, item) for item in root.iter("object")])


def _object(path: Path, item: ElementTree.Element) -> Object:
    name = (item.findtext("name") or "").strip()
    try:
        box = [float(item.findtext(f"bndbox/{corner}") or "") for corner in CORNERS]
    except ValueError:
        box = [math.nan] * 4
    if not name or not all(abs(corner) <= LARGEST for corner in box):  # NaN is no less than anything
        line = f"annotation '{path}' has an object without a name or a bndbox ({', '.join(CORNERS)})"
        raise Malformed("object", line)
    corners = (box[0] - 1, box[1] - 1, box[2], box[3])
    return name, corners, (item.findtext("difficult") or "0").strip() == "1"


def _image_name(filename: str, stem: str, folder: Path) -> str:
    """Finds the image's name in `folder`: that of the file with the annotation's stem, else `filename`.

    Data sets are renumbered, and copied with other suffixes, while <filename> stays as it was. It counts where it has
    the annotation's stem, and where no file has.
    """
    own = [stem + suffix for lower in SUFFIXES for suffix in (lower, lower.upper())]
    named = [filename] if filename else []
    candidates = [*named, *own] if Path(filename).stem == stem else [*own, *named]
    there = (name for name in candidates if why_not(folder, name) is None and (folder / name).is_file())
    return next(there, filename or own[0])


def _record(image: Path, objects: list[Object], labels: list[str]) -> Record:
    kept = [item for item in objects if item[1][2] > item[1][0] and item[1][3] > item[1][1]]
    boxes = np.array([box for _, box, _ in kept], np.float32).reshape(-1, 4)
    return Record(
        image,
        boxes,
        np.array([labels.index(name) for name, _, _ in kept], np.int64),
        (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        np.array([difficult for _, _, difficult in kept], bool),
    )
