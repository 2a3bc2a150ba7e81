"""Cuts a detector's data into a classifier's images.

    effedge crops DATA --out DIR

Every object is cut out with a margin and written to DIR/<class>/, ready for `effedge train b0 --data DIR`. Crowds,
difficult objects, and those smaller than --smallest pixels are left out. Images that cannot be read are listed at the
end, and the exit status is 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.files import atomic_folder
from effedge.deploy.common.messages import log, printable, track
from effedge.deploy.common.paths import output_folder
from effedge.deploy.common.scratch import shortened
from effedge.deploy.image.files import open_image
from effedge.deploy.predict import EXIT_PARTLY_DONE
from effedge.pipeline.datasets.checks import KEEP, check_data
from effedge.pipeline.datasets.problems import line_by_line
from effedge.pipeline.datasets.records import DataSet


def crop_window(box: np.ndarray, width: int, height: int, margin: float) -> tuple[int, int, int, int]:
    """Extends `box` [4] xyxy by `margin` of its sides all around, within its image: integer pixels (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = (float(value) for value in box)
    across, down = margin * (x1 - x0), margin * (y1 - y0)
    left, top = max(0, int(np.floor(x0 - across))), max(0, int(np.floor(y0 - down)))
    return left, top, min(width, int(np.ceil(x1 + across))), min(height, int(np.ceil(y1 + down)))


def distinct_names(texts: Sequence[str]) -> list[str]:
    """Makes a file's name of each text, no two of them alike, also where upper and lower case count as one.

    >>> distinct_names(["a/b", "a_b", ".", "A_B"])
    ['a_b', 'a_b_2', '_', 'A_B_3']
    """
    names, taken = [], set()
    for text in texts:
        # A leading dot hides a file; a trailing one, or a space, is lost on some file systems.
        whole = re.sub(r'[/\\:*?"<>|\x00-\x1f]|^\.|[. ]+$', "_", text)
        base = name = shortened(whole)
        count = 1
        while name.casefold() in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def write_crops(data: DataSet, folder: Path, margin: float, smallest: float) -> tuple[list[int], list[str]]:
    """Writes a PNG for each object; returns their number by class id, and the errors of images that cannot be read."""
    counts, unread = [0] * len(data.labels), list[str]()
    names = distinct_names([record.path.stem for record in data.records])  # images of several folders may have one name
    class_names = distinct_names([label or str(class_id) for class_id, label in enumerate(data.labels)])
    for label, name in zip(data.labels, class_names, strict=True):
        if label and name != label:
            log.warning(f"note: the folder of the class '{label}' is '{name}'")
    for name, record in zip(names, track(data.records, desc="cutting", unit="image"), strict=True):
        try:
            image = open_image(record.path)
        except UserError as error:
            unread.append(str(error))
            continue
        for index in np.flatnonzero(~record.ignored):
            box, class_id = record.boxes[index], int(record.class_ids[index])
            if min(box[2] - box[0], box[3] - box[1]) < smallest:
                continue
            x0, y0, x1, y1 = crop_window(box, image.shape[1], image.shape[0], margin)
            class_folder = folder / class_names[class_id]
            class_folder.mkdir(exist_ok=True)
            Image.fromarray(image[y0:y1, x0:x1]).save(class_folder / f"{name}-{index}.png")
            counts[class_id] += 1
    return counts, unread


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("data", metavar="DATA", help="a COCO json or a Pascal VOC folder")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of the images, if not beside DATA")
    parser.add_argument("--out", metavar="DIR", type=output_folder, required=True, help="folder to make, or to replace")
    parser.add_argument("--margin", type=float, default=0.1, help="of a box's sides, all around (default: 0.1)")
    parser.add_argument("--smallest", type=float, default=8, metavar="PIXELS", help="shorter side (default: 8)")
    parser.add_quiet()
    arguments = parser.parse_args()
    if not 0 <= arguments.margin <= 1:
        raise UserError(f"--margin {arguments.margin}: expected 0 to 1")
    if arguments.smallest < 0:
        raise UserError(f"--smallest {arguments.smallest}: expected 0 or more pixels")
    with line_by_line():
        data = check_data(arguments.data, arguments.images, unreadable=KEEP).data
    if data.task != "detection":
        raise UserError(f"'{arguments.data}' has no boxes to cut out: expected a COCO json or a Pascal VOC folder")
    with atomic_folder(arguments.out) as temporary:
        counts, unread = write_crops(data, temporary, arguments.margin, arguments.smallest)
    for label, count in zip(data.labels, counts, strict=True):
        print(f"{printable(str(label))}: {count}")
    print(arguments.out, flush=True)
    for line in unread:
        log.warning(f"error: {line}")
    if unread:
        log.warning(f"error: {len(unread)} of {len(data.records)} images could not be read; the others are cut")
        sys.exit(EXIT_PARTLY_DONE)
