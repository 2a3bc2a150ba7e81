"""No annotation, however damaged, is more than one line of error, or names a file outside of its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effedge.pipeline.datasets.coco import read_coco
from effedge.pipeline.datasets.folders import read_table
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.datasets.voc import read_voc
from tests.fuzz.strategies import FAST, SLOW, TEXT, changed, damaged, one_line_or, run_of

COUNTS = [FAST, pytest.param(SLOW // 2, marks=pytest.mark.slow)]
COCO = {
    "images": [{"id": 3, "file_name": "a.png", "width": 8, "height": 6}, {"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2, 4, 3], "area": 10, "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0.5, 0, 4, 5], "iscrowd": 1},
    ],
}
VOC = """<annotation><filename>a.png</filename><size><width>8</width><height>6</height></size>
<object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>2</ymax></bndbox>
</object></annotation>"""


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("Annotations", "JPEGImages", "images", "ImageSets/Main"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for place in ("JPEGImages", "images", "."):
        Image.new("RGB", (8, 6)).save(tmp_path / "data" / place / "a.png")
    return tmp_path / "data"


def check(folder: Path, data: DataSet | None) -> None:
    """Holds a data set that was read against what the code behind it relies on."""
    for record in data.records if data is not None else ():
        assert record.path.resolve().is_relative_to(folder.resolve())
        count = len(record.boxes)
        assert record.boxes.shape == (count, 4) and record.boxes.dtype == np.float32
        assert np.isfinite(record.boxes).all() and np.isfinite(record.areas).all()
        assert (record.class_ids < len(data.labels)).all() and (record.class_ids >= 0).all()
        assert data.task == "classification" or len(record.class_ids) == len(record.areas) == count


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_coco_json_is_one_line(folder, count):
    path = folder / "instances.json"

    @run_of(count)
    @given(changed(COCO))
    def run(content):
        path.write_text(json.dumps(content))
        check(folder, one_line_or(lambda: read_coco(path)))

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_coco_json_is_one_line(folder, count):
    path = folder / "instances.json"

    @run_of(count)
    @given(damaged(json.dumps(COCO).encode()))
    def run(content):
        path.write_bytes(content)
        check(folder, one_line_or(lambda: read_coco(path)))

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_voc_annotation_is_one_line(folder, count):
    @run_of(count)
    @given(damaged(VOC.encode()))
    def run(content):
        (folder / "Annotations" / "a.xml").write_bytes(content)
        check(folder, one_line_or(lambda: read_voc(folder)))

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_list_or_table_is_one_line(folder, count):
    (folder / "Annotations" / "a.xml").write_text(VOC)
    voc_list, table = folder / "ImageSets" / "Main" / "val.txt", folder / "labels.tsv"

    @run_of(count)
    @given(damaged(b"a\na 1\n"), damaged(b"a.png\t0\na.png\t3\n"), TEXT, st.integers() | TEXT)
    def run(lines, rows, name, class_id):
        voc_list.write_bytes(lines)
        check(folder, one_line_or(lambda: read_voc(voc_list)))
        more = f"{name}\t{class_id}\n".encode("utf-8", "surrogatepass")
        for content in (rows, rows + more):
            table.write_bytes(content)
            check(folder, one_line_or(lambda: read_table(table)))

    run()
