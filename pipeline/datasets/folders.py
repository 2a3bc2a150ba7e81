"""Reads classification data: a folder of images for each class, or a table of `file<TAB>class`."""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_text
from effedge.deploy.image.files import SUFFIXES, is_hidden, is_image
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import MOST_CLASSES, DataSet, class_record, image_path, require_files


def read_class_folders(path: Path) -> DataSet:
    """Reads the images below `path/<class>/`; class ids count the folders in alphabetical order, as torchvision does.

    Hidden files and folders are left out, at every depth. Raises UserError if there are no such folders, or no images
    in one of them.
    """
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not is_hidden(Path(folder.name)))
    if not folders:
        raise UserError(f"'{path}' has no folders: expected one for each class, with its images inside")
    records = []
    for class_id, folder in enumerate(folders):
        images = sorted(
            file for file in folder.rglob("*") if is_image(file) and not is_hidden(file.relative_to(folder))
        )
        if not images:
            raise UserError(f"class folder '{folder}' has no images ({', '.join(SUFFIXES)}): remove it or fill it")
        records += [class_record(image, class_id) for image in images]
    return DataSet("classification", [folder.name for folder in folders], records)


def read_table(path: Path, images: Path | None = None, problems: Problems | None = None) -> DataSet:
    """Reads the images of a tsv: in every line a file name, a tab, and a class id (from 0) or a class name.

    Args:
        path: the table.
        images: the folder that the file names are relative to; by default the table's own.
        problems: collects malformed lines and missing images; the lines are left out.

    Raises:
        UserError: no table, or an empty table. Without `problems`, BrokenData for the mistakes.
    """
    lines = [line for line in read_text(path, "a table of file<TAB>class").splitlines() if line.strip()]
    collected, rows = problems or Problems(), []
    for number, line in enumerate(lines, 1):
        row = line.split("\t")
        if len(row) == 2 and all(cell.strip() for cell in row):
            rows.append(row)
        else:
            collected.add("line", f"line {number} of '{path}' is {line!r:.60}: expected file<TAB>class")
    if not rows:
        collected.refuse()
        raise UserError(f"'{path}' is empty: expected a table of file<TAB>class")
    classes = [row[1].strip() for row in rows]
    labels: list[str | None]
    if all(name.isdecimal() for name in classes):
        largest = max(classes, key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
        if len(largest.lstrip("0")) > 10 or int(largest) >= MOST_CLASSES:
            raise UserError(f"'{path}' has the class id {largest:.40}: expected 0 to {MOST_CLASSES - 1}")
        class_ids = [int(name) for name in classes]
        labels = [None] * (max(class_ids) + 1)
    else:
        names = sorted(set(classes))
        class_ids, labels = [names.index(name) for name in classes], list(names)
    folder = images or path.parent
    paths = [image_path(folder, row[0].strip(), path, collected) for row in rows]
    records = [class_record(file, class_id) for file, class_id in zip(paths, class_ids, strict=True) if file]
    require_files(records, "give their folder with --images", collected)
    if problems is None:
        collected.refuse()
    return DataSet("classification", labels, records)
