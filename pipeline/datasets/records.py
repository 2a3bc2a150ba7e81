"""Defines the data set that every reader returns: a list of images with their annotations.

Detection: boxes with a class each. Classification: one class and no boxes. Class ids are indices into the data set's
own labels; `match_labels` maps them to a model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256_of_bytes
from effedge.deploy.common.paths import inside
from effedge.pipeline.datasets.problems import Problems

MOST_CLASSES = 100_000  # a class id beyond it is a mistake, or would be a list that no memory holds
LARGEST = 1e7  # pixels of a coordinate, and a number's in an annotation at all


def is_number(value: object) -> bool:
    """Returns True for a number that an annotation may have: finite, and no larger than LARGEST."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


class Record(NamedTuple):
    """An image and its annotations.

    boxes: float32 [n,4] xyxy in pixels; [0,4] for classification.
    class_ids: int64 [n], indices into the data set's labels; [1] for classification.
    areas: float32 [n], pixels; COCO's are those of the object's mask.
    ignored: bool [n]; COCO's crowds and VOC's difficult objects, which are neither learnt nor counted as missed.
    """

    path: Path
    boxes: np.ndarray
    class_ids: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray


class DataSet(NamedTuple):
    """Images and the names of their classes.

    labels: by class id; None for an id without a name (COCO's gaps, or a list of numbers).
    notes: oddities that the reader met, a line each.
    """

    task: str  # "detection" or "classification"
    labels: list[str | None]
    records: list[Record]
    notes: Sequence[str] = ()


def class_record(path: Path, class_id: int) -> Record:
    """Makes the record of an image of one class."""
    no_areas = np.zeros(0, np.float32)
    return Record(path, np.zeros((0, 4), np.float32), np.array([class_id]), no_areas, np.zeros(0, bool))


def annotations_digest(data: DataSet) -> str:
    """Computes the SHA-256 over the labels and the annotations; not over the images or their names."""
    arrays = [array for record in data.records for array in record[1:]]
    chunks = [str(array.dtype).encode() + array.tobytes() for array in arrays]
    return sha256_of_bytes([repr(data.labels).encode(), *chunks])


def match_labels(labels: Sequence[str | None], model: Sequence[str | None]) -> list[int | None]:
    """Maps each class of a data set to the model's class id, or to None if the model does not know it.

    Names are compared without case. A data set without names has the model's ids already; so has one whose names are
    all unknown but that has as many classes as the model (folders named after synsets, say).

    >>> match_labels(["Cat", "dog"], ["dog", None, "cat"])
    [2, 0]

    Raises:
        UserError: no class is known, or an id is beyond the model's.
    """
    if not any(labels):
        if len(labels) > len(model):
            raise UserError(
                f"the data has class id {len(labels) - 1}, the model has {len(model)} classes: ids begin at 0"
            )
        return list(range(len(labels)))
    by_name = {name.casefold(): index for index, name in enumerate(model) if name is not None}
    matched = [by_name.get(name.casefold()) if name is not None else None for name in labels]
    if any(index is not None for index in matched):
        return matched
    if len(labels) == len(model):
        return list(range(len(labels)))
    raise UserError(
        f"the data and the model have no class in common: the data has {_some(labels)}, the model has {_some(model)}; "
        "check that they belong together"
    )


def _some(labels: Sequence[str | None]) -> str:
    """Lists a few of the names.

    >>> _some(["a", None, "b", "c", "d"])
    'a, b, c and 1 more'
    """
    names = [name for name in labels if name is not None]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def image_path(folder: Path, name: object, said_by: Path, problems: Problems) -> Path | None:
    """Returns the path of an image that an annotation names, in `folder`; adds a problem and returns None if it would
    be outside of it, or is no name."""
    try:
        return inside(folder, name, f"'{said_by}'")
    except UserError as error:
        problems.add("file name", f"{error} (--images says where the images are)")
        return None


def require_files(records: Sequence[Record], advice: str, problems: Problems) -> None:
    """Adds a problem, with the first missing file and their number, if images of `records` are not on the disk."""
    missing = [record.path for record in records if not record.path.is_file()]
    if missing:
        line = f"{len(missing)} of {len(records)} images are missing, the first is '{missing[0]}': {advice}"
        problems.add("missing images", line)
