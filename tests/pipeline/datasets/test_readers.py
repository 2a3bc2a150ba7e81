"""Data sets on the disk: what is read of them, and what is said of those that are malformed."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.coco import read_coco
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.datasets.records import match_labels


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def coco(**changes):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0.5, 0, 4, 5], "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 1, "bbox": [5, 5, 0, 5]},
        ],
    }
    return content | changes


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def write(folder, content):
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_coco_boxes_become_xyxy_and_categories_count_in_order_of_their_ids(folder):
    data = read_data(write(folder, coco()))
    assert data.task == "detection" and data.labels == ["person", "dog"]
    empty, full = data.records
    assert empty.path == folder / "images" / "a.jpg" and empty.boxes.shape == (0, 4)
    np.testing.assert_array_equal(full.boxes, np.float32([[1, 2, 11, 22], [0.5, 0, 4.5, 5]]))
    assert full.class_ids.tolist() == [1, 0]
    assert full.areas.tolist() == [150, 20]
    assert full.ignored.tolist() == [False, True]


def test_coco_images_are_found_beside_the_json_and_where_one_says(folder):
    path = write(folder, coco())
    assert read_coco(path).records[0].path.parent == folder / "images"
    (folder / "images").rename(folder / "val2017")
    assert read_coco(path, folder / "val2017").records[0].path.parent == folder / "val2017"
    with pytest.raises(UserError, match=r"2 of 2 images are missing.*--images"):
        read_coco(path)
    for name in "ab":
        (folder / "val2017" / f"{name}.jpg").rename(folder / f"{name}.jpg")
    assert read_coco(path).records[0].path.parent == folder


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is no JSON"),
        ("[]", "no list of images"),
        (coco(annotations=None), "no list of annotations"),
        (coco(categories=[]), "empty list of categories"),
        (coco(images=[{"id": 1}]), "image without id or file_name"),
        (coco(images=[{"id": 3, "file_name": "a.jpg"}] * 2), "two images with the id 3"),
        (coco(categories=[{"id": 1, "name": "a"}] * 2), "two categories with the id 1"),
        (coco(categories=[{"id": "1", "name": "a"}]), "without a whole-number id"),
        (coco(annotations=[{"image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1]}]), "unknown image"),
        (coco(annotations=[{"image_id": 3, "category_id": 2, "bbox": [0, 0, 1, 1]}]), "unknown category"),
        (coco(annotations=[{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1]}]), "without a bbox"),
        (coco(annotations=[{"image_id": 3, "category_id": 1, "bbox": [0, 0, -1, 1]}]), "without a bbox"),
        (coco(annotations=[{"image_id": 3, "category_id": 1, "bbox": [0, 0, float("nan"), 1]}]), "without a bbox"),
        (coco(annotations=[{"image_id": 3, "category_id": 1}]), "without a bbox"),
        (coco(annotations=["x"]), "unknown image"),
    ],
)
def test_a_malformed_coco_json_is_one_line_that_names_the_part(folder, content, expected):
    with pytest.raises(UserError, match=expected) as caught:
        read_data(write(folder, content))
    assert "\n" not in str(caught.value) and "instances.json" in str(caught.value)


VOC = """<annotation><filename>{file}</filename><size><width>40</width><height>30</height></size>
<object><name>cat</name><difficult>{difficult}</difficult><part><name>head</name></part>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>2</ymax></bndbox></object>
<object><name>bird</name><bndbox><xmax>40</xmax><xmin>3</xmin><ymin>4.5</ymin><ymax>30</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("000002 -1\n\n")
    for index, file in [(1, "000001.jpg"), (2, "")]:
        (tmp_path / "Annotations" / f"00000{index}.xml").write_text(VOC.format(file=file, difficult=index - 1))
        write_image(tmp_path / "JPEGImages" / f"00000{index}.jpg")
    return tmp_path


def test_voc_counts_pixels_from_one_and_the_last_is_inside(voc):
    data = read_data(voc)
    assert data.labels == ["bird", "cat"] and len(data.records) == 2
    first, second = data.records
    np.testing.assert_array_equal(first.boxes, np.float32([[0, 0, 1, 2], [2, 3.5, 40, 30]]))
    assert first.class_ids.tolist() == [1, 0] and first.areas.tolist() == [2, 38 * 26.5]
    assert first.ignored.tolist() == [False, False] and second.ignored.tolist() == [True, False]
    assert second.path == voc / "JPEGImages" / "000002.jpg"


def test_a_list_in_image_sets_chooses_images(voc):
    data = read_data(voc / "ImageSets" / "Main" / "val.txt")
    assert [record.path.name for record in data.records] == ["000002.jpg"]


def test_a_malformed_voc_folder_is_one_line(voc):
    (voc / "JPEGImages" / "000001.jpg").unlink()
    with pytest.raises(UserError, match="1 of 2 images are missing, the first is .*000001.jpg"):
        read_data(voc)
    (voc / "Annotations" / "000001.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    with pytest.raises(UserError, match="000001.xml' has an object without"):
        read_data(voc)
    (voc / "Annotations" / "000001.xml").write_text("<annotation>")
    with pytest.raises(UserError, match="000001.xml' is no XML"):
        read_data(voc)
    (voc / "Annotations" / "000002.xml").unlink()
    with pytest.raises(UserError, match="000002.xml' does not exist"):
        read_data(voc / "ImageSets" / "Main" / "val.txt")
    (voc / "Annotations" / "000001.xml").unlink()
    with pytest.raises(UserError, match="names no images"):
        read_data(voc)


def test_class_folders_count_in_alphabetical_order(tmp_path):
    for path in ["dog/1.jpg", "cat/deep/2.PNG", "cat/1.jpeg"]:
        write_image(tmp_path / path)
    (tmp_path / "cat" / "notes.txt").write_text("")
    (tmp_path / ".cache").mkdir()
    data = read_data(tmp_path)
    assert data.task == "classification" and data.labels == ["cat", "dog"]
    found = [(record.path.relative_to(tmp_path).as_posix(), int(record.class_ids[0])) for record in data.records]
    assert found == [("cat/1.jpeg", 0), ("cat/deep/2.PNG", 0), ("dog/1.jpg", 1)]
    (tmp_path / "eel").mkdir()
    with pytest.raises(UserError, match="eel' has no images"):
        read_data(tmp_path)


def test_a_table_of_ids_has_no_names_and_one_of_names_has(tmp_path):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    (tmp_path / "labels.tsv").write_text("a.jpg\t4\nb.jpg\t0\n")
    data = read_data(tmp_path / "labels.tsv")
    assert data.labels == [None] * 5 and [int(record.class_ids[0]) for record in data.records] == [4, 0]
    (tmp_path / "labels.tsv").write_text("a.jpg\tdog\nb.jpg\tcat\n")
    data = read_data(tmp_path / "labels.tsv")
    assert data.labels == ["cat", "dog"] and [int(record.class_ids[0]) for record in data.records] == [1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("a.jpg\t1\nb.jpg 2\n", "line 2 of"),
        ("a.jpg\t1\t2\n", "line 1 of"),
        ("nowhere.jpg\t1\n", "1 of 1 images are missing"),
    ],
)
def test_a_malformed_table_is_one_line(tmp_path, text, expected):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "labels.tsv").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_data(tmp_path / "labels.tsv")


def test_data_of_no_known_kind_says_what_is_expected(tmp_path):
    (tmp_path / "data.csv").write_text("")
    for path in (tmp_path / "data.csv", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="expected a COCO json, a Pascal VOC folder"):
            read_data(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no folders"):
        read_data(tmp_path / "empty")


def test_labels_are_matched_by_name_else_by_place():
    assert match_labels(["Person", "zebra", "unknown"], ["person", None, "Zebra"]) == [0, 2, None]
    assert match_labels([None, None], ["a", "b", "c"]) == [0, 1]  # ids
    assert match_labels(["n01440764", "n01443537"], ["tench", "goldfish"]) == [0, 1]  # as many: same order
    with pytest.raises(UserError, match="no class in common: the data has x, y, the model has a, b, c and 1 more"):
        match_labels(["x", "y"], ["a", "b", "c", "d"])
    with pytest.raises(UserError, match="class id 2, the model has 2 classes"):
        match_labels([None, None, None], ["a", "b"])


@pytest.mark.skipif("EFFEDGE_DATA" not in os.environ, reason="EFFEDGE_DATA is not set")
def test_real_data_sets_are_read_as_pycocotools_reads_them(capsys):
    from pycocotools.coco import COCO

    path = Path(os.environ["EFFEDGE_DATA"]) / "coco_train2017" / "instances.json"
    theirs, ours = COCO(str(path)), read_data(path)
    assert ours.labels == [category["name"] for category in theirs.loadCats(sorted(theirs.getCatIds()))]
    assert len(ours.records) == len(theirs.imgs)
    for record, image_id in zip(ours.records, theirs.imgs, strict=True):
        expected = theirs.loadAnns(theirs.getAnnIds(imgIds=[image_id]))
        np.testing.assert_allclose(record.areas, [annotation["area"] for annotation in expected], rtol=1e-6)
        x, y, w, h = np.float32([annotation["bbox"] for annotation in expected]).reshape(-1, 4).T
        np.testing.assert_allclose(record.boxes, np.stack([x, y, x + w, y + h], 1))
        assert record.ignored.tolist() == [bool(annotation["iscrowd"]) for annotation in expected]


def test_the_annotations_own_name_counts_where_its_filename_is_stale(voc):
    # 000001.xml was copied from 000002's, with its <filename>; both images are there.
    (voc / "Annotations" / "000001.xml").write_text(VOC.format(file="000002.jpg", difficult=0))
    (voc / "Annotations" / "000002.xml").write_text(VOC.format(file=r"C:\data\000002.png", difficult=0))
    data = read_data(voc)
    assert [record.path.name for record in data.records] == ["000001.jpg", "000002.jpg"]
    [note] = data.notes  # another suffix or folder is no other image
    assert note.startswith("1 annotations name another image in <filename>, the first is '000002.jpg'")
    # <filename> counts where no image has the annotation's name, and where it only says which of two suffixes.
    (voc / "JPEGImages" / "000001.jpg").rename(voc / "JPEGImages" / "photo.JPG")
    (voc / "Annotations" / "000001.xml").write_text(VOC.format(file="photo.JPG", difficult=0))
    write_image(voc / "JPEGImages" / "000002.png")
    (voc / "Annotations" / "000002.xml").write_text(VOC.format(file="000002.png", difficult=0))
    assert [record.path.name for record in read_data(voc).records] == ["photo.JPG", "000002.png"]


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_part_of_a_class_or_a_file_name(voc):
    write_image(voc / "a.jpg")
    write_image(voc / "b.jpg")
    (voc / "labels.tsv").write_bytes(MARK + "a.jpg\tKätzchen\r\nb.jpg\tdog\r\n".encode())
    data = read_data(voc / "labels.tsv")
    assert data.labels == ["Kätzchen", "dog"] and data.records[0].path == voc / "a.jpg"
    (voc / "data.json").write_bytes(MARK + json.dumps(coco()).encode())
    assert read_data(voc / "data.json").labels == ["person", "dog"]
    (voc / "ImageSets" / "Main" / "val.txt").write_bytes(MARK + b"000002\r\n")
    assert len(read_data(voc / "ImageSets" / "Main" / "val.txt").records) == 1
    xml = voc / "Annotations" / "000001.xml"
    xml.write_bytes(MARK + xml.read_bytes())
    assert len(read_data(voc).records) == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("name", ["labels.tsv", "data.json", "ImageSets/Main/val.txt"])
def test_another_encoding_is_named_in_a_line(voc, name, encoding):
    (voc / name).write_bytes('a.jpg\tKätzchen\n{"ä"}'.encode(encoding))
    with pytest.raises(UserError) as caught:
        read_data(voc / name)
    named = {"latin-1": "is no UTF-8 (byte", "utf-32": "is UTF-32"}.get(encoding, "is UTF-16")
    assert named in str(caught.value) and "save it as UTF-8" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["gb2312", "no-such", "shift_jis"])
def test_an_xml_of_an_encoding_that_expat_does_not_know_is_a_line(voc, encoding):
    xml = voc / "Annotations" / "000001.xml"
    xml.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + xml.read_bytes())
    with pytest.raises(UserError, match="000001.xml' is no XML .*in UTF-8"):
        read_data(voc)


def test_hidden_files_and_those_of_systems_are_no_images_and_no_classes(tmp_path):
    for path in ["dog/1.jpg", "cat/1.jfif"]:
        write_image(tmp_path / path.replace("jfif", "jpg"))
        (tmp_path / path.replace("jfif", "jpg")).rename(tmp_path / path)
    for path in ["dog/._1.jpg", "dog/.ipynb_checkpoints/1.jpg", "cat/@eaDir/1.jpg", "__MACOSX/dog/._1.jpg", ".x/1.jpg",
                 ".DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "@eaDir/dog/1.jpg"]:  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"Mac OS X")
    data = read_data(tmp_path)
    assert data.labels == ["cat", "dog"]
    assert [record.path.relative_to(tmp_path).as_posix() for record in data.records] == ["cat/1.jfif", "dog/1.jpg"]


def test_a_hidden_annotation_is_none(voc):
    (voc / "Annotations" / "._000001.xml").write_bytes(b"Mac OS X")
    assert len(read_data(voc).records) == 2


OUTSIDE = ["../secret.jpg", "images/../../secret.jpg", "link.jpg", "n" * 300 + ".jpg", "a\0.jpg", "", "."]


@pytest.fixture
def secret(folder):
    """A folder of data with an image beside it, which a link and the names OUTSIDE lead to."""
    write_image(folder.parent / "secret.jpg")
    for place in (folder, folder / "images", folder / "JPEGImages"):
        place.mkdir(exist_ok=True)
        (place / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    return folder


@pytest.mark.parametrize("name", [*OUTSIDE, "/etc/hostname"])
def test_an_image_outside_of_the_data_is_no_image_of_it(secret, name):
    images = [{"id": 3, "file_name": name}]
    with pytest.raises(UserError, match=r"instances.json' names the file .*, which .*--images says where"):
        read_data(write(secret, coco(images=images, annotations=[])))
    if name.strip() and "\0" not in name:
        (secret / "labels.tsv").write_text(f"{name}\t1\n")
        with pytest.raises(UserError, match=r"labels.tsv' names the file .*, which "):
            read_data(secret / "labels.tsv")


@pytest.mark.parametrize("name", ["../secret.jpg", "link.jpg", "n" * 300 + ".jpg", "/etc/hostname"])
def test_a_voc_annotation_and_a_list_name_no_files_outside(secret, name):
    (secret / "Annotations").mkdir()
    (secret / "ImageSets" / "Main").mkdir(parents=True)
    (secret / "Annotations" / "1.xml").write_text(VOC.format(file=name, difficult=0))
    with pytest.raises(UserError, match=r"1.xml' names the file .*, which "):
        read_data(secret)
    (secret / "ImageSets" / "Main" / "val.txt").write_text("../../1\n")
    with pytest.raises(UserError, match=r"val.txt' names the file '../../1.xml', which is not inside"):
        read_data(secret / "ImageSets" / "Main" / "val.txt")


def one(**fields):
    return coco(annotations=[{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], **fields}])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (one(bbox=[0, 0, 2**70, 1]), "without a bbox"),
        (one(bbox=[0, 0, 10**400, 1]), "without a bbox"),
        (one(bbox=[0, 0, True, 1]), "without a bbox"),
        (one(image_id=[3]), "unknown image"),
        (one(category_id={}), "unknown category"),
        (one(area="large"), "area or iscrowd is no number"),
        (one(area=float("nan")), "area or iscrowd is no number"),
        (one(iscrowd="no"), "area or iscrowd is no number"),
        (coco(images=[{"id": [3], "file_name": "a.jpg"}]), "image without id"),
        (coco(categories=[{"id": 1, "name": {"a": 1}}]), "without a whole-number id or a name"),
        (coco(images=[{"id": 10**5000, "file_name": 1}]), "no JSON|image without id"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"images": ' + "[" * 100_000, "is nested too deeply"),
    ],
)
def test_numbers_and_types_that_no_data_set_has_are_one_line(folder, content, expected):
    sys.set_int_max_str_digits(0)  # Python's own limit, which a program may lift
    path = write(folder, content)
    sys.set_int_max_str_digits(4300)
    with pytest.raises(UserError, match=expected) as caught:
        read_data(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("class_id", ["4000000000", "100000", "9" * 5000])
def test_a_class_id_that_no_list_of_classes_holds_is_refused(tmp_path, class_id):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "labels.tsv").write_text(f"a.jpg\t0\na.jpg\t{class_id}\n")
    with pytest.raises(UserError, match=r"labels.tsv' has the class id \d{1,40}: expected 0 to 99999"):
        read_data(tmp_path / "labels.tsv")


def test_an_xml_that_grows_a_billionfold_or_has_huge_boxes_is_one_line(voc):
    path = voc / "Annotations" / "000001.xml"
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    path.write_text(f'<!DOCTYPE a [<!ENTITY e0 "laughter">{entities}]><annotation>&e11;</annotation>')
    with pytest.raises(UserError, match="000001.xml' is no XML"):
        read_data(voc)
    path.write_text(VOC.format(file="000001.jpg", difficult=0).replace("<xmax>40", "<xmax>1e30"))
    with pytest.raises(UserError, match="000001.xml' has an object without"):
        read_data(voc)
