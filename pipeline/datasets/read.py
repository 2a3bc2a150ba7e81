"""Reads a data set of any kind; its path decides the reader."""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.coco import read_coco
from effedge.pipeline.datasets.folders import read_class_folders, read_table
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.datasets.voc import is_voc, read_voc

KINDS = "a COCO json, a Pascal VOC folder, a folder with a folder for each class, or a .tsv of file<TAB>class"


def read_data(path: Path, images: Path | None = None, problems: Problems | None = None) -> DataSet:
    """Reads a data set of any kind.

    Args:
        path: one of KINDS.
        images: the folder of its images, where that is not the usual place.
        problems: collects the mistakes of single images and annotations, which are then left out.

    Raises:
        UserError: no data at `path`, or malformed data.
    """
    if not path.exists():
        raise UserError(f"data '{path}' does not exist: expected {KINDS}")
    if is_voc(path):
        return read_voc(path, images, problems)
    if path.is_dir():
        return read_class_folders(path)
    if path.suffix == ".json":
        return read_coco(path, images, problems)
    if path.suffix in (".tsv", ".txt"):
        return read_table(path, images, problems)
    raise UserError(f"data '{path}' is of unknown kind: expected {KINDS}")
