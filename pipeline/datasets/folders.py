"""Classification: a folder of pictures for each class, or a table of `file<TAB>class`."""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import SUFFIXES, DataSet, classified, require_files


def read_class_folders(path: Path) -> DataSet:
    """Every picture below `path/<class>/`; class ids count the folders in alphabetical order, as torchvision does.

    Raises UserError if there are no such folders, or no pictures in one.
    """
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise UserError(f"'{path}' has no folders: expected one for each class, with its pictures inside")
    records = []
    for class_id, folder in enumerate(folders):
        pictures = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not pictures:
            raise UserError(f"class folder '{folder}' has no pictures ({', '.join(SUFFIXES)}): remove it or fill it")
        records += [classified(picture, class_id) for picture in pictures]
    return DataSet("classification", [folder.name for folder in folders], records)


def read_table(path: Path, images: Path | None = None, problems: Problems | None = None) -> DataSet:
    """The pictures of a tsv: each line a file name, a tab, and a class id (from 0) or a class name.

    Args:
        path: the table.
        images: the folder that the file names count from; by default the table's own.
        problems: collects malformed lines and missing pictures; the lines are left out.

    Raises:
        UserError: no table, or nothing in it. Without `problems`, BrokenData for what they would collect.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"'{path}' does not exist: expected a table of file<TAB>class") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}): expected a table of file<TAB>class") from error
    found, rows = problems or Problems(), []
    for number, line in enumerate(lines, 1):
        row = line.split("\t")
        if len(row) == 2 and all(cell.strip() for cell in row):
            rows.append(row)
        else:
            found.add("line", f"line {number} of '{path}' is {line!r:.60}: expected file<TAB>class")
    if not rows:
        found.refuse()
        raise UserError(f"'{path}' is empty: expected a table of file<TAB>class")
    classes = [row[1].strip() for row in rows]
    labels: list[str | None]
    if all(name.isdecimal() for name in classes):
        class_ids = [int(name) for name in classes]
        labels = [None] * (max(class_ids) + 1)
    else:
        names = sorted(set(classes))
        class_ids, labels = [names.index(name) for name in classes], list(names)
    folder = images or path.parent
    records = [classified(folder / row[0].strip(), class_id) for row, class_id in zip(rows, class_ids, strict=True)]
    require_files(records, "give their folder with --images", found)
    if problems is None:
        found.refuse()
    return DataSet("classification", labels, records)
