"""Objects cut out of their images, a folder for each class."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.crops import crop_window, distinct_names, main
from effedge.pipeline.datasets.read import read_data
from tests.pipeline.small_training import COLOURS, write_coco


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["crops", *map(str, words)])
    main()


def test_every_object_is_cut_out_into_the_folder_of_its_class(monkeypatch, capsys, tmp_path):
    path = write_coco(tmp_path, 6)
    run_main(monkeypatch, path, "--images", tmp_path / "photographs", "--out", tmp_path / "crops", "--margin", 0, "-q")
    assert capsys.readouterr().out == f"blue: 2\ngreen: 2\nred: 2\n{tmp_path / 'crops'}\n"
    data = read_data(tmp_path / "crops")
    assert data.labels == sorted(COLOURS) and len(data.records) == 6
    boxes = {a["image_id"]: a["bbox"] for a in json.loads(path.read_text())["annotations"]}
    for record in data.records:
        pixels = np.asarray(Image.open(record.path))
        _, _, width, height = boxes[int(record.path.stem.split("-")[0])]
        assert pixels.shape == (height, width, 3)
        assert (pixels == COLOURS[data.labels[int(record.class_ids[0])]]).all()


def test_a_margin_stays_within_the_image():
    assert crop_window(np.array([10, 20, 30, 60]), 100, 100, 0.1) == (8, 16, 32, 64)
    assert crop_window(np.array([1, 90.5, 30, 100]), 100, 100, 0.5) == (0, 85, 45, 100)


def test_small_objects_are_left_out_and_what_is_no_place_or_data_is_one_line(monkeypatch, tmp_path, capsys, folders):
    path, images = write_coco(tmp_path, 3), tmp_path / "photographs"
    run_main(monkeypatch, path, "--images", images, "--out", tmp_path / "crops", "--smallest", 500, "-q")
    assert capsys.readouterr().out.startswith("blue: 0\n")
    with pytest.raises(UserError, match="effedge did not write what is in it"):
        run_main(monkeypatch, path, "--images", images, "--out", images)
    with pytest.raises(UserError, match="has no boxes"):
        run_main(monkeypatch, folders, "--out", tmp_path / "other")
    with pytest.raises(UserError, match="--margin 2.0"):
        run_main(monkeypatch, path, "--out", tmp_path / "other", "--margin", 2)
    with pytest.raises(UserError, match="--smallest -3.0"):
        run_main(monkeypatch, path, "--out", tmp_path / "other", "--smallest", -3)


def test_an_image_that_cannot_be_read_is_listed_at_the_end_and_the_others_are_cut(monkeypatch, capsys, tmp_path):
    path = write_coco(tmp_path, 6)
    cut = sorted((tmp_path / "photographs").iterdir())[2]
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, path, "--images", tmp_path / "photographs", "--out", tmp_path / "crops", "-q")
    assert ended.value.code == 1 and len(read_data(tmp_path / "crops").records) == 5


def test_images_of_one_name_in_two_folders_keep_their_crops_apart(monkeypatch, tmp_path):
    path = write_coco(tmp_path, 6)
    content = json.loads(path.read_text())
    for image in content["images"]:  # 0.png to 5.png become 0/x.png to 5/x.png
        folder = tmp_path / "photographs" / str(image["id"])
        folder.mkdir()
        (tmp_path / "photographs" / image["file_name"]).rename(folder / "x.png")
        image["file_name"] = f"{image['id']}/x.png"
    path.write_text(json.dumps(content))
    run_main(monkeypatch, path, "--images", tmp_path / "photographs", "--out", tmp_path / "crops", "-q")
    assert len(read_data(tmp_path / "crops").records) == 6


def test_no_object_is_lost_by_names_of_files_and_classes_that_are_nearly_alike(monkeypatch, tmp_path, caplog):
    """Files of one stem, one of another's number and stem; classes that would share a folder, or be none."""
    labels = ["a/b", "a_b", "A_B", ".", "..", " ", "3"]
    files = ["x.png", "x.bmp", "1-x.png", "X.tif", "x_2.png"]
    (tmp_path / "images").mkdir()
    for name in files:
        Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "images" / name)
    annotations = [
        {"id": 1 + len(labels) * image + label, "image_id": image, "category_id": label + 1, "iscrowd": 0, "area": 100,
         "bbox": [label, label, 10, 10]}
        for image in range(len(files)) for label in range(len(labels))
    ]  # fmt: skip
    images = [{"id": index, "file_name": name, "width": 40, "height": 40} for index, name in enumerate(files)]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(labels)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data.json").write_text(json.dumps(data))
    words = (tmp_path / "data.json", "--images", tmp_path / "images", "--out", tmp_path / "crops", "-q")
    for _ in range(2):  # the second replaces the first
        run_main(monkeypatch, *words)
        crops = read_data(tmp_path / "crops")
        assert len(crops.records) == len(annotations) and len(crops.labels) == len(labels)
        assert np.bincount([record.class_ids[0] for record in crops.records]).tolist() == [len(files)] * len(labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops", "data.json", "images"]
    assert "the folder of the class 'a/b' is 'a_b'" in caplog.text
    (tmp_path / "crops" / "a_b" / "mine.png").write_bytes(b"")
    with pytest.raises(UserError, match="did not write what is in it .'a_b/mine.png'"):
        run_main(monkeypatch, *words)


def test_names_are_distinct_on_any_file_system_and_never_lead_elsewhere():
    texts = [
        "a/b",
        "a_b",
        "A_B",
        ".",
        "..",
        "...",
        "a",
        "a",
        "a_2",
        "é" * 200,
        "é" * 201,
        "x.",
        "x ",
        "c:d",
        "\0",
        "..",
    ]
    names = distinct_names(texts)
    assert len({name.casefold() for name in names}) == len(texts)
    for name in names:
        assert name and "/" not in name and name[0] != "." and len(name.encode()) <= 210
