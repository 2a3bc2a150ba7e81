"""COCO's annotation file: a JSON of images, annotations and categories (cocodataset.org, "Data format").

Boxes are [x, y, width, height] in pixels there, xyxy here. Class ids count the categories in the order of their ids,
which may begin anywhere and have gaps; `records.match_labels` finds a model's ids by name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy.cli import UserError
from pipeline.data.records import DataSet, Record, require_files


def read_coco(path: Path, images: Path | None = None) -> DataSet:
    """The data set of a COCO json; pictures without annotations belong to it too.

    Args:
        path: the json.
        images: the folder of the pictures. By default `images/` beside the json, or the json's own folder.

    Raises:
        UserError: no JSON, a part that is missing or malformed (says which), or missing pictures.
    """
    content = _load(path)
    names = _categories(path, content["categories"])
    class_ids = {category: index for index, category in enumerate(sorted(names))}
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    files = {}
    for image in content["images"]:
        if not isinstance(image, dict) or "id" not in image or "file_name" not in image:
            raise UserError(f"'{path}' has an image without id or file_name: {image!r:.80}")
        if image["id"] in files:
            raise UserError(f"'{path}' has two images with the id {image['id']}: ids must differ")
        files[image["id"]] = image["file_name"]
    for annotation in content["annotations"]:
        _check(path, annotation, files, names)
        by_image[annotation["image_id"]].append(annotation)
    folder = images or _image_folder(path, list(files.values()))
    records = [_record(folder / name, by_image[image_id], class_ids) for image_id, name in files.items()]
    require_files(records, "give their folder with --images")
    return DataSet("detection", [names[category] for category in class_ids], records)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"'{path}' does not exist: expected a COCO json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' is no JSON ({error}): expected a COCO json") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f"'{path}' has no list of {part}: expected a COCO json (images, annotations, categories)")
    for part in ("images", "categories"):
        if not content[part]:
            raise UserError(f"'{path}' has an empty list of {part}: nothing to read")
    return content


def _categories(path: Path, categories: list[Any]) -> dict[int, str]:
    """Category id -> name."""
    names: dict[int, str] = {}
    for category in categories:
        if not (isinstance(category, dict) and isinstance(category.get("id"), int) and category.get("name")):
            raise UserError(f"'{path}' has a category without a whole-number id or a name: {category!r:.80}")
        if category["id"] in names:
            raise UserError(f"'{path}' has two categories with the id {category['id']}: ids must differ")
        names[category["id"]] = str(category["name"])
    return names


def _check(path: Path, annotation: Any, files: dict[Any, str], names: dict[int, str]) -> None:
    """UserError if an annotation is of no known image or category, or its box is not four finite numbers."""
    known = isinstance(annotation, dict)
    if not known or annotation.get("image_id") not in files or annotation.get("category_id") not in names:
        raise UserError(f"'{path}' has an annotation of an unknown image or category: {_short(annotation)}")
    box = annotation.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
    if not numbers or not np.isfinite(box).all() or min(box[2:]) < 0:
        raise UserError(f"'{path}' has an annotation without a bbox [x, y, width, height]: {_short(annotation)}")


def _short(annotation: Any) -> str:
    """An annotation without its mask, cut to a line's length."""
    if isinstance(annotation, dict):
        annotation = {key: value for key, value in annotation.items() if key != "segmentation"}
    return repr(annotation)[:120]


def _record(path: Path, annotations: list[dict[str, Any]], class_ids: dict[int, int]) -> Record:
    """The annotations of one picture; those without area, which nothing can be matched with, are left out."""
    kept = [annotation for annotation in annotations if min(annotation["bbox"][2:]) > 0]
    boxes = np.array([annotation["bbox"] for annotation in kept], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    areas = [annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]) for annotation in kept]
    return Record(
        path,
        boxes,
        np.array([class_ids[annotation["category_id"]] for annotation in kept], np.int64),
        np.array(areas, np.float32),
        np.array([annotation.get("iscrowd", 0) for annotation in kept], bool),
    )


def _image_folder(path: Path, names: list[str]) -> Path:
    """`images/` beside the json where the first picture lies there, else the json's own folder."""
    beside = path.parent / "images"
    return beside if (beside / names[0]).is_file() else path.parent
