"""Objects cut out of their images, a folder for each class."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.crops import crop_window, main
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
    with pytest.raises(UserError, match="files of something else"):
        run_main(monkeypatch, path, "--images", images, "--out", images)
    with pytest.raises(UserError, match="has no boxes"):
        run_main(monkeypatch, folders, "--out", tmp_path / "other")
    with pytest.raises(UserError, match="--margin 2.0"):
        run_main(monkeypatch, path, "--out", tmp_path / "other", "--margin", 2)
