"""The report on a data set: every kind of mistake in a line of its own, and what is counted rather than refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from effedge.pipeline.datasets.checks import KEEP, LEAVE_OUT, check_data
from effedge.pipeline.datasets.problems import BrokenData
from effedge.pipeline.datasets.report import report
from effedge.pipeline.models.tables import Size
from tests.pipeline.small_training import ROOT, write_coco


def broken(path, images, model=None):
    with pytest.raises(BrokenData) as caught:
        check_data(str(path), images, model)
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines


def notes(path, folder, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))
    return check_data(str(path), folder).notes


def annotation(index=100, image=0, category=1, box=(10, 10, 50, 50), **more):
    return {"id": index, "image_id": image, "category_id": category, "bbox": list(box), **more}


@pytest.fixture
def squares(tmp_path):
    """33 images, 11 of each class: more than LVIS calls rare."""
    return write_coco(tmp_path, 33), tmp_path / "photographs"


def test_a_sound_data_set_has_no_notes_and_every_class_in_the_table(squares):
    path, images = squares
    checked = check_data(str(path), images, "det-lite0")
    assert checked.notes == [] and checked.sizes.tolist() == [[160, 120]] * 33
    lines = report(checked, "det-lite0", Size(128, 128))
    assert lines[0] == "data: 33 images (0 without objects), 33 objects, 3 classes"
    assert [line.split()[:3] for line in lines[2:5]] == [[name, "11", "11"] for name in ("blue", "green", "red")]
    assert lines[5].startswith("anchors of det-lite0 at 128, each class counting alike: mean best IoU 0.")
    assert not any(line.startswith("warning") for line in lines)


def test_all_kinds_of_mistakes_are_told_at_once_a_line_each(squares):
    path, images = squares
    content = json.loads(path.read_text())
    content["images"] += [{"id": 0, "file_name": "again.png"}, {"file_name": "nameless.png"}]
    content["categories"].append({"id": 1, "name": "twice"})
    content["annotations"] += [
        annotation(category=9), annotation(category=8), annotation(image=99), annotation(box=(1, 2, 3)),
        annotation(box=(170, 10, 20, 20)), annotation(image=1, box=(10, 130, 20, 20)),
    ]  # fmt: skip
    path.write_text(json.dumps(content))
    (images / "5.png").unlink()
    (images / "6.png").write_text("text")
    lines = broken(path, images)
    assert len(lines) == 10
    for expected in (
        "two categories with the id 1",
        "two images with the id 0",
        "image without id or file_name",
        "unknown category: {'id': 100, 'image_id': 0, 'category_id': 9, ",
        "unknown image: ",
        "without a bbox [x, y, width, height]",
        "1 of 33 images are missing, the first is '",
        "6.png' is no image",
        "1 of 33 images cannot be read: replace them, or train without them by --skip-unreadable",
        "the box [170.0, 10.0, 190.0, 30.0] (x0, y0, x1, y1) lies outside its image",
    ):
        assert sum(expected in line for line in lines) == 1, expected
    assert next(line for line in lines if "unknown category" in line).endswith("(and 1 more like this)")
    assert next(line for line in lines if "lies outside" in line).endswith("(and 1 more like this)")


def test_images_that_were_cut_short_are_refused_a_line_each_or_left_out_with_a_note(squares):
    path, images = squares
    for index in range(12):
        content = (images / f"{index}.png").read_bytes()
        (images / f"{index}.png").write_bytes(content[: len(content) * 2 // 3])
    lines = broken(path, images)
    assert len(lines) == 11 and lines[9].endswith("(and 2 more like this)")
    assert lines[10].startswith("12 of 33 images cannot be read")
    checked = check_data(str(path), images, unreadable=LEAVE_OUT)
    assert [record.path.name for record in checked.data.records] == [f"{index}.png" for index in range(12, 33)]
    assert len(checked.sizes) == 21 and "12 of 33 images cannot be read and are left out" in checked.notes
    assert len(check_data(str(path), images, unreadable=KEEP).data.records) == 33


def test_boxes_without_area_are_counted(squares):
    path, images = squares
    found = json.loads(path.read_text())["annotations"]
    without_area = [annotation(box=(5, 5, 0, 9)), annotation(101, box=(5, 5, 9, 0))]
    expected = ["2 objects have a box without area and are left out"]
    assert notes(path, images, annotations=[*found, *without_area]) == expected


def test_duplicate_ids_objects_and_images_are_counted(squares):
    path, images = squares
    content = json.loads(path.read_text())
    same_id = notes(path, images, annotations=[*content["annotations"], annotation(1), annotation(2, image=1)])
    assert same_id == ["2 annotations have the id of another; each counts as an object of its own"]
    double = notes(path, images, annotations=[*content["annotations"], annotation(100), annotation(101)])
    assert double == ["1 objects are there twice: same image, same class, same box"]
    again = [*content["images"], {"id": 40, "file_name": "0.png"}]
    assert notes(path, images, annotations=content["annotations"], images=again) == ["1 images are listed twice"]


def test_boxes_over_the_edge_are_counted_but_not_those_that_rounding_put_there(squares):
    path, images = squares
    found = json.loads(path.read_text())["annotations"]
    assert notes(path, images, annotations=[*found, annotation(box=(150, 10, 11, 20))]) == []
    over = [*found, annotation(box=(150, 10, 30, 20)), annotation(101, box=(-5, 10, 30, 20))]
    assert notes(path, images, annotations=over) == [
        "2 boxes reach over their image's edge, by up to 20 pixels, and are clipped"
    ]


def test_classes_that_are_absent_rare_or_out_of_balance_are_named(squares):
    path, images = squares
    content = json.loads(path.read_text())
    categories = [*content["categories"], {"id": 4, "name": "unicorn"}, {"id": 5, "name": "dodo"}]
    crowd = [annotation(200 + k, image=k % 30, box=(k % 100, 10, 20, 20 + k // 100)) for k in range(101)]
    found = [*content["annotations"], *crowd, annotation(category=5, image=3)]
    assert notes(path, images, categories=categories, annotations=found) == [
        "1 classes have no objects, the first is unicorn: they cannot be learnt",
        "1 classes are in 10 images or fewer, the first is dodo",
        "the classes are out of balance: 112 objects of blue for one of dodo",
    ]


def test_objects_too_small_for_the_anchors_are_counted_by_the_model(tmp_path):
    path, images = write_coco(tmp_path, 33, box=[10, 10, 8, 8]), tmp_path / "photographs"
    lines = report(check_data(str(path), images), "d0", Size(128, 128))
    expected = "warning: 33 objects (100.0%) are too small for the anchors, 6 pixels a side at 128: a larger --size"
    assert expected in "\n".join(lines)
    assert not any("too small" in line for line in report(check_data(str(path), images), "d0", Size(768, 768)))


def test_the_rarest_of_many_classes_are_shown(tmp_path):
    for index in range(30):
        (tmp_path / f"{index:02}").mkdir()
        for copy in range(1 + (index != 7)):
            Image.new("RGB", (9, 9)).save(tmp_path / f"{index:02}" / f"{copy}.png")
    lines = report(check_data(str(tmp_path), None, "b0"))
    assert lines[0] == "data: 59 images, 30 classes" and lines[-2] == "  and 10 classes with more"
    assert "07" in [line.split()[0] for line in lines[2:22]]
    assert lines[-1] == "warning: 30 classes are in 10 images or fewer, the first is 00"


def test_the_command_prints_a_line_for_each_kind_and_exits_with_2(squares):
    path, images = squares

    def command(*words):
        return subprocess.run([sys.executable, "-m", "effedge", "check-data", path, "--images", images, *words],
                              cwd=ROOT, text=True, capture_output=True)  # fmt: skip

    sound = command("--model", "det-lite0", "--size", "128")
    assert sound.returncode == 0 and sound.stderr == "" and sound.stdout.startswith("data: 33 images")
    content = json.loads(path.read_text())
    content["annotations"] += [annotation(category=9), annotation(image=99)]
    path.write_text(json.dumps(content))
    failed = command()
    assert failed.returncode == 2 and failed.stdout == ""
    lines = failed.stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "b0 is for classification" in command("--model", "b0").stderr


def test_voc_mistakes_are_told_at_once(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    texts = ["<annotation>", "<annotation>", "<annotation><object><name>cat</name></object></annotation>",
             "<annotation><object><name>cat</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>2</xmax><ymax>9</ymax>"
             "</bndbox></object></annotation>"]  # fmt: skip
    for index, text in enumerate(texts):
        (tmp_path / "Annotations" / f"{index}.xml").write_text(text)
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "JPEGImages" / f"{index}.jpg")
    lines = broken(tmp_path, None)
    assert len(lines) == 2 and "0.xml' is no XML" in lines[0] and lines[0].endswith("(and 1 more like this)")
    assert "2.xml' has an object without" in lines[1]
