"""Reads COCO's annotation file: a JSON of images, annotations and categories (cocodataset.org, "Data format").

Boxes are [x, y, width, height] in pixels in the file, xyxy in the records, where `image_sizes.py` moves them into the
upright image. Class ids count the categories in the order
of their ids, which may begin anywhere and have gaps; `records.match_labels` maps them to a model's ids by name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_text
from effedge.deploy.common.paths import shown, why_not
from effedge.pipeline.datasets.image_sizes import stated_size, to_upright_pixels
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import LARGEST, DataSet, Record, image_path, is_number, require_files


def read_coco(path: Path, images: Path | None = None, problems: Problems | None = None) -> DataSet:
    """Reads the data set of a COCO json; images without annotations belong to it too.

    Args:
        path: the json.
        images: the folder of the images. By default `images/` beside the json, or the json's own folder.
        problems: collects the mistakes of single images and annotations, which are then left out.

    Raises:
        UserError: no JSON, or a part that is missing. Without `problems`, BrokenData for the mistakes.
    """
    collected = problems or Problems()
    content = _load(path)
    names = _categories(path, content["categories"], collected)
    class_ids = {category: index for index, category in enumerate(sorted(names))}
    files = _files(path, content["images"], collected)
    if not names or not files:
        collected.refuse()
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        if _is_valid(path, annotation, files, names, collected):
            by_image[annotation["image_id"]].append(annotation)
    folder = images or _image_folder(path, next(iter(files.values()))["file_name"])
    paths = {image_id: image_path(folder, image["file_name"], path, collected) for image_id, image in files.items()}
    records = [_record(file, by_image[image_id], class_ids) for image_id, file in paths.items() if file is not None]
    require_files(records, "give their folder with --images", collected)
    stated = [
        stated_size(files[image_id].get("width"), files[image_id].get("height"))
        for image_id, file in paths.items()
        if file is not None
    ]
    records, moved = to_upright_pixels(records, stated, collected)
    if problems is None:
        collected.refuse()
    kept = sum(len(record.boxes) for record in records)
    notes = _notes(content["annotations"], sum(map(len, by_image.values())) - kept)
    return DataSet("detection", [names[category] for category in class_ids], records, [*notes, *moved])


def _files(path: Path, images: list[Any], problems: Problems) -> dict[Any, dict[str, Any]]:
    """Maps image ids to the images' entries, which have a file_name."""
    files: dict[Any, dict[str, Any]] = {}
    for image in images:
        is_whole = isinstance(image, dict) and _is_id(image.get("id")) and isinstance(image.get("file_name"), str)
        if not is_whole:
            problems.add("image", f"'{path}' has an image without id or file_name: {_short(image)}")
        elif image["id"] in files:
            problems.add("image id", f"'{path}' has two images with the id {shown(image['id'])}: ids must differ")
        else:
            files[image["id"]] = image
    return files


def _is_id(value: object) -> bool:
    """Returns True for an id: COCO's are integers, those of others may be texts."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _notes(annotations: list[Any], without_area: int) -> list[str]:
    """Counts harmless oddities, a line each."""
    notes = []
    if without_area:
        notes.append(f"{without_area} objects have a box without area and are left out")
    ids = [annotation["id"] for annotation in annotations if isinstance(annotation, dict) and "id" in annotation]
    if repeated := len(ids) - len(set(map(repr, ids))):
        notes.append(f"{repeated} annotations have the id of another; each counts as an object of its own")
    return notes


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path, "a COCO json")
    try:
        content = json.loads(text)
    except RecursionError:
        raise UserError(f"'{path}' is nested too deeply: expected a COCO json") from None
    except ValueError as error:
        raise UserError(f"'{path}' is no JSON ({error}): expected a COCO json") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f"'{path}' has no list of {part}: expected a COCO json (images, annotations, categories)")
    for part in ("images", "categories"):
        if not content[part]:
            raise UserError(f"'{path}' has an empty list of {part}: nothing to read")
    return content


def _categories(path: Path, categories: list[Any], problems: Problems) -> dict[int, str]:
    """Maps category ids to names."""
    names: dict[int, str] = {}
    for category in categories:
        is_whole = isinstance(category, dict) and isinstance(category.get("id"), int)
        if not is_whole or not isinstance(category.get("name"), str | int) or category["name"] == "":
            problems.add("category", f"'{path}' has a category without a whole-number id or a name: {_short(category)}")
        elif category["id"] in names:
            problems.add(
                "category id", f"'{path}' has two categories with the id {shown(category['id'])}: ids must differ"
            )
        else:
            names[category["id"]] = str(category["name"])
    return names


def _is_valid(path: Path, annotation: Any, files: dict[Any, Any], names: dict[int, str], problems: Problems) -> bool:
    """Returns True for an annotation of a known image and category, with a box of four finite numbers."""
    if not isinstance(annotation, dict) or not _is_id(image_id := annotation.get("image_id")) or image_id not in files:
        problems.add("unknown image", f"'{path}' has an annotation of an unknown image: {_short(annotation)}")
        return False
    category, box = annotation.get("category_id"), annotation.get("bbox")
    if not _is_id(category) or category not in names:
        problems.add("unknown category", f"'{path}' has an annotation of an unknown category: {_short(annotation)}")
    elif not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        problems.add("bbox", f"'{path}' has an annotation without a bbox [x, y, width, height]: {_short(annotation)}")
    elif not _has_area(annotation) or annotation.get("iscrowd", 0) not in (0, 1, None):
        problems.add("area", f"'{path}' has an annotation whose area or iscrowd is no number: {_short(annotation)}")
    else:
        return True
    return False


def _has_area(annotation: dict[str, Any]) -> bool:
    """Returns True if the area, in square pixels, is a finite number, or absent: then it is the box's."""
    area = annotation.get("area", 0)
    return isinstance(area, int | float) and 0 <= area <= LARGEST**2


def _short(annotation: Any) -> str:
    """Prints an annotation, an image or a category without its mask, cut to a line's length."""
    if isinstance(annotation, dict):
        items = [f"{key!r:.40}: {shown(value)}" for key, value in annotation.items() if key != "segmentation"]
        return f"{{{', '.join(items)}"[:120]
    return shown(annotation)


def _record(path: Path, annotations: list[dict[str, Any]], class_ids: dict[int, int]) -> Record:
    """Makes the record of an image; annotations without area, which no anchor or detection matches, are left out."""
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


def _image_folder(path: Path, first: str) -> Path:
    """Returns `images/` beside the json where the first image lies there, else the json's own folder."""
    beside = path.parent / "images"
    return beside if why_not(beside, first) is None and (beside / first).is_file() else path.parent
