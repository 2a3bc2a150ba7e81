"""Detections as a value: indexing, comparison, text, files, and the forms of COCO and supervision."""

import copy
import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.detections import Detection, Detections
from effedge.deploy.image.draw import class_colour, draw_detections


@pytest.fixture
def detections():
    boxes = [[10, 20, 30, 40], [50, 10, 90, 70], [1.5, 2.25, 3.125, 4]]
    return Detections(boxes, [0.9, 0.6, 0.3], [7, 3, 7], ["seven", "three", "seven"])


def test_lists_become_arrays_of_one_length(detections):
    kinds = (detections.boxes.dtype, detections.scores.dtype, detections.classes.dtype)
    assert kinds == (np.float32, np.float32, np.int64) and len(detections) == 3
    empty = Detections([], [], [], [])
    assert (len(empty), empty.boxes.shape, bool(empty)) == (0, (0, 4), False)
    with pytest.raises(UserError, match="as many of each"):
        Detections([[0, 0, 1, 1]], [0.5, 0.4], [1], ["a"])


def test_one_is_a_named_tuple_of_python_numbers(detections):
    one = detections[1]
    assert one == Detection((50, 10, 90, 70), pytest.approx(0.6), 3, "three")
    assert [type(value) for value in (one.box[0], one.score, one.class_id)] == [float, float, int]
    assert detections[-1].box == (1.5, 2.25, 3.125, 4) and detections[np.int64(0)].label == "seven"
    with pytest.raises(IndexError):
        detections[3]


def test_slices_masks_and_indices_choose_detections(detections):
    assert detections[:2].labels == ["seven", "three"]
    assert detections[detections.scores > 0.5] == detections[:2]
    assert detections[detections.classes == 7].boxes.tolist() == [[10, 20, 30, 40], [1.5, 2.25, 3.125, 4]]
    assert detections[[label == "three" for label in detections.labels]] == detections[1:2]
    assert detections[[2, 0]].scores.tolist() == detections.scores[[2, 0]].tolist()
    assert detections[np.argsort(detections.scores)] == detections[::-1]
    assert len(detections[[]]) == len(detections[5:]) == 0
    with pytest.raises(IndexError, match="mask"):
        detections[[True]]


def test_iteration_and_unpacking(detections):
    assert [label for box, score, class_id, label in detections] == ["seven", "three", "seven"]
    assert list(detections) == [detections[row] for row in range(3)]


def test_equality_is_of_what_was_detected(detections):
    assert detections == copy.deepcopy(detections) == pickle.loads(pickle.dumps(detections))
    assert detections == Detections(*(getattr(detections, name) for name in
                                      ("boxes", "scores", "classes", "labels")), source="a.png")  # fmt: skip
    assert detections != detections[:2] and detections != list(detections)
    moved = Detections(detections.boxes + 1, detections.scores, detections.classes, detections.labels)
    named = Detections(detections.boxes, detections.scores, detections.classes, ["a", "b", "c"])
    assert detections != moved and detections != named
    with pytest.raises(TypeError):
        hash(detections)


def test_the_text_is_for_a_person(detections):
    assert repr(detections).splitlines() == [
        "3 detections",
        "  seven 0.90 at 10,20 to 30,40",
        "  three 0.60 at 50,10 to 90,70",
        "  seven 0.30 at 2,2 to 3,4",
    ]
    assert repr(detections[:0]) == "no detections" and repr(detections[:1]).startswith("1 detection\n")
    many = Detections(np.zeros((25, 4)), np.zeros(25), np.zeros(25), ["a"] * 25)
    assert len(repr(many).splitlines()) == 22 and repr(many).endswith("and 5 more")


def test_as_json(detections):
    record = json.loads(json.dumps(detections.to_dict()))["detections"]
    assert record[2] == {"box": [1.5, 2.25, 3.12, 4.0], "score": 0.3, "class_id": 7, "label": "seven"}


def test_pycocotools_reads_what_to_coco_returns(detections):
    coco_api = pytest.importorskip("pycocotools.coco")
    entries = detections.to_coco(5)
    assert [entry["category_id"] for entry in entries] == [8, 4, 8]
    coco = coco_api.COCO()
    coco.dataset = {"images": [{"id": 5}], "categories": [{"id": 8}, {"id": 4}], "annotations": []}
    coco.createIndex()
    results = coco.loadRes(json.loads(json.dumps(entries)))
    assert [results.anns[key]["area"] for key in sorted(results.anns)] == [400, 2400, 1.625 * 1.75]


def test_coco_categories_by_label(detections):
    entries = detections.to_coco(5, {"three": 30, "seven": 70, "other": 1})
    assert [entry["category_id"] for entry in entries] == [70, 30, 70]
    with pytest.raises(UserError, match="no id for 'seven'"):
        detections.to_coco(5, {"three": 30})


def test_supervision_gets_its_own_fields(detections, monkeypatch):
    stub = SimpleNamespace(Detections=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "supervision", stub)
    converted = detections.to_supervision()
    np.testing.assert_array_equal(converted.xyxy, detections.boxes)
    np.testing.assert_array_equal(converted.confidence, detections.scores)
    assert converted.class_id.tolist() == [7, 3, 7]
    assert converted.data["class_name"].tolist() == ["seven", "three", "seven"]


def test_the_real_supervision_takes_them(detections):
    supervision = pytest.importorskip("supervision")
    converted = detections.to_supervision()
    assert len(converted) == 3 and isinstance(converted, supervision.Detections)
    assert converted[converted["class_name"] == "three"].xyxy.tolist() == [[50, 10, 90, 70]]
    assert len(converted.with_nms(threshold=0.5)) == 3
    assert len(detections[:0].to_supervision()) == 0


def test_without_supervision_a_line_says_how_to_get_it(detections, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        detections.to_supervision()


def test_drawn_onto_any_form_of_the_image(detections, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    expected = draw_detections(pixels, detections)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for image in (pixels, Image.fromarray(pixels), tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        np.testing.assert_array_equal(np.asarray(detections.draw(image)), expected)
    np.testing.assert_array_equal(np.asarray(detections.draw(pixels[..., ::-1], color="bgr")), expected)


def test_an_image_from_a_file_need_not_be_given_again(detections, tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    of_file = Detections(detections.boxes, detections.scores, detections.classes, detections.labels, tmp_path / "a.png")
    assert np.asarray(of_file.draw())[30, 10].tolist() == list(class_colour(7))
    of_file[1:2].save(tmp_path / "new" / "drawn.png")
    with Image.open(tmp_path / "new" / "drawn.png") as drawn:
        assert np.asarray(drawn)[40, 50].tolist() == list(class_colour(3))
    with pytest.raises(UserError, match=r"give it, as in draw\(image\)"):
        detections.draw()


def test_what_cannot_be_saved_leaves_nothing(detections, tmp_path):
    image = np.zeros((80, 100, 3), np.uint8)
    with pytest.raises(UserError, match="expected a suffix such as"):
        detections.save(tmp_path / "drawn.txt", image)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        detections.save(tmp_path / "file" / "drawn.png", image)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    detections.save(tmp_path / "drawn.jpg", image)
    assert Image.open(tmp_path / "drawn.jpg").format == "JPEG"
