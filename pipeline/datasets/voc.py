"""Reads Pascal VOC's folder (Everingham et al. 2010): Annotations/*.xml, JPEGImages and lists in ImageSets/Main/*.txt.

VOC's boxes are integer pixels counted from 1, the last one included: (1, 1, 1, 1) is the first pixel, xyxy (0, 0, 1, 1)
in the records. Class ids count the names in alphabetical order.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import SUFFIXES, DataSet, Record, require_files

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
        names = sorted(file.stem for file in annotations.glob("*.xml"))
    else:
        # A class's own list has a second column: 1, -1 or 0 (difficult).
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"'{path}' names no images: expected Annotations/*.xml, or a list in ImageSets/Main")
    folder = images or root / "JPEGImages"
    collected, parsed = problems or Problems(), []
    for name in names:
        try:
            parsed.append(_parse(annotations / f"{name}.xml", folder))
        except Malformed as error:
            collected.add(error.kind, str(error))
    labels = sorted({name for _, objects in parsed for name, _, _ in objects})
    records = [_record(image, objects, labels) for image, objects in parsed]
    require_files(records, "give their folder with --images", collected)
    if problems is None:
        collected.refuse()
    without_area = sum(len(objects) for _, objects in parsed) - sum(len(record.boxes) for record in records)
    notes = [f"{without_area} objects have a box without area and are left out"] if without_area else []
    return DataSet("detection", list(labels), records, notes)


class Malformed(UserError):
    """The error of an annotation file that cannot be used, with the kind of its mistake."""

    def __init__(self, kind: str, line: str):
        super().__init__(line)
        self.kind = kind


Object = tuple[str, tuple[float, ...], bool]  # name, xyxy, difficult


def _parse(path: Path, folder: Path) -> tuple[Path, list[Object]]:
    """Parses an annotation file: (path of the image, objects)."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise Malformed("missing", f"annotation '{path}' does not exist, though the list names it") from None
    except (OSError, ElementTree.ParseError) as error:
        raise Malformed("XML", f"annotation '{path}' is no XML ({error}): expected Pascal VOC's") from error
    image = _image_path(root.findtext("filename"), path.stem, folder)
    return image, [_object(path, item) for item in root.iter("object")]


def _object(path: Path, item: ElementTree.Element) -> Object:
    name = (item.findtext("name") or "").strip()
    try:
        box = [float(item.findtext(f"bndbox/{corner}") or "") for corner in CORNERS]
    except ValueError:
        box = [math.nan] * 4
    if not name or not all(map(math.isfinite, box)):
        line = f"annotation '{path}' has an object without a name or a bndbox ({', '.join(CORNERS)})"
        raise Malformed("object", line)
    corners = (box[0] - 1, box[1] - 1, box[2], box[3])
    return name, corners, (item.findtext("difficult") or "0").strip() == "1"


def _image_path(filename: str | None, stem: str, folder: Path) -> Path:
    """Finds the image's path: the annotation's file name, else a file with the annotation's stem."""
    named = [filename.strip()] if filename and filename.strip() else []
    candidates = [folder / name for name in [*named, *(stem + suffix for suffix in SUFFIXES)]]
    return next((path for path in candidates if path.is_file()), candidates[0])


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
