"""The one door to all readers: the kind of a data set is seen from its path."""

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
    """Read a data set of any kind; `images` is the folder of its pictures where that is not the usual place.

    Raises UserError if there is none at `path`, or it is malformed; what is wrong with single pictures and annotations
    goes into `problems` where they are given.
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
