"""The detector and classifier end to end, on small OpenVINO engines whose answers are known (conftest.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effedge import Classifier, Detector
from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.classifier import softmax

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def scene(height, width, **boxes):
    """A black image with a rectangle (x0, y0, x1, y1) of each colour."""
    image = np.zeros((height, width, 3), np.uint8)
    for colour, (x0, y0, x1, y1) in boxes.items():
        image[y0:y1, x0:x1, {"red": 0, "green": 1, "blue": 2}[colour]] = 255
    return image


def test_boxes_are_in_the_images_own_pixels(build):
    detector = Detector(build(size=(64, 64)))
    image = scene(128, 256, red=(40, 20, 120, 100), blue=(160, 60, 256, 128))  # scaled by 1/4
    [detections] = detector([image])
    assert len(detections) == 2
    np.testing.assert_array_equal(detections.boxes, [[40, 20, 120, 100], [160, 60, 256, 128]])
    np.testing.assert_allclose(detections.scores, [0.9, 0.7], rtol=1e-6)
    assert detections.classes.tolist() == [0, 2]
    assert detections.labels == ["red", "blue"]
    assert (detections.boxes.dtype, detections.scores.dtype, detections.classes.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


def stretched(manifest):
    """Makes an engine's letterbox a stretch."""
    del manifest["spec"]["input"]["fill"]
    manifest["spec"]["input"]["resize"] = "stretch"


def test_boxes_of_stretched_images_are_in_the_images_own_pixels(build, edit):
    folder = build(size=(64, 32))
    edit(folder, stretched)
    wide = scene(128, 256, red=(40, 20, 120, 100), blue=(160, 60, 256, 128))  # rows by 1/2, columns by 1/8
    tall = scene(320, 64, green=(4, 10, 32, 320))  # rows by 1/5, columns by 1/2
    first, second = Detector(folder)([wide, tall])
    np.testing.assert_array_equal(first.boxes, [[40, 20, 120, 100], [160, 60, 256, 128]])
    np.testing.assert_array_equal(second.boxes, [[4, 10, 32, 320]])


def test_a_resize_of_a_later_effedge_is_one_line(build, edit):
    folder = build()
    edit(folder, lambda manifest: manifest["spec"]["input"].update(resize="seam-carving"))
    with pytest.raises(UserError, match="unknown resize 'seam-carving', this effedge has letterbox, ") as caught:
        Detector(folder)
    assert "\n" not in str(caught.value)


def test_a_rotated_photograph_is_found_upright(build, tmp_path):
    upright = scene(64, 128, green=(10, 20, 50, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))).save(tmp_path / "phone.png", exif=exif)
    [detections] = Detector(build(size=(128, 128)))([tmp_path / "phone.png"])
    np.testing.assert_array_equal(detections.boxes, [[10, 20, 50, 60]])


@pytest.mark.parametrize(
    ("stated", "asked", "found"), [(None, None, 1), (0.9, None, 2), (1, None, 2), (1, 0.5, 1), (0.3, 0.9, 2)]
)
def test_the_iou_of_nms_is_the_models_own_unless_one_is_asked_for(build, stated, asked, found):
    folder = build()
    if stated is not None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["spec"]["iou"] = stated
        (folder / "manifest.json").write_text(json.dumps(manifest))
    detector = Detector(folder, iou=asked)
    outputs = {
        "boxes": np.float32([[0, 0, 10, 10], [0, 0, 10, 8]]),  # IoU 0.8
        "scores": np.float32([0.9, 0.8]),
        "classes": np.int32([1, 1]),
    }
    assert len(detector.choose(outputs, (64, 64))) == found


def test_nothing_found_gives_empty_arrays(build):
    [detections] = Detector(build())([scene(10, 10)])
    assert detections.boxes.shape == (0, 4)
    assert (len(detections), detections.labels) == (0, [])


def test_threshold_and_max_detections(build):
    folder = build()
    image = scene(64, 64, red=(0, 0, 9, 9), green=(20, 20, 40, 40), blue=(50, 50, 60, 60))
    assert [len(detections) for detections in Detector(folder, threshold=0.75)([image])] == [2]
    [detections] = Detector(folder, max_detections=1)([image])
    assert detections.labels == ["red"]


def test_boxes_of_one_class_are_suppressed_as_iou_says(build, monkeypatch):
    folder = build()
    outputs = {
        "boxes": np.float32([[[0, 0, 40, 40], [0, 0, 40, 30], [0, 0, 40, 30]]]),  # IoU 0.75
        "scores": np.float32([[0.9, 0.8, 0.7]]),
        "classes": np.int32([[1, 1, 2]]),
    }
    for iou, names in ((0.5, ["green", "blue"]), (0.8, ["green", "green", "blue"])):
        detector = Detector(folder, iou=iou)
        monkeypatch.setattr(detector.engine, "backend", lambda batch: outputs)
        assert [detections.labels for detections in detector([scene(64, 64)])] == [names]


def test_boxes_are_clipped_to_the_image_and_those_outside_are_dropped(build, monkeypatch):
    detector = Detector(build(size=(64, 64)))
    outputs = {  # an image of 100 x 200 fills 32 x 64 of the input
        "boxes": np.float32([[[-10, -5, 500, 300], [5, 40, 20, 60], [70, 5, 80, 20], [9, 9, 9, 20]]]),
        "scores": np.float32([[0.9, 0.8, 0.7, 0.6]]),
        "classes": np.int32([[0, 1, 2, 0]]),
    }
    monkeypatch.setattr(detector.engine, "backend", lambda batch: outputs)
    [detections] = detector([scene(100, 200)])
    np.testing.assert_array_equal(detections.boxes, [[0, 0, 200, 100]])


@pytest.mark.parametrize("batch", [(1, 1, 1), (4, 4, 4), (1, 2, 3), (2, 2, 5)])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_every_batch_gives_every_image_its_own_answer_in_order(build, batch, count):
    images = [scene(40 + i, 64, red=(i, 2, i + 10, 20 + i)) for i in range(count)]
    detector = Detector(build(batch=batch))
    assert detector.batch == batch[2]
    results = list(detector(images))
    assert [len(detections) for detections in results] == [1] * count
    for i, detections in enumerate(results):
        np.testing.assert_allclose(detections.boxes, [[i, 2, i + 10, 20 + i]], atol=0.01)


def test_a_stream_reads_images_when_they_are_needed(build):
    detector, read = Detector(build()), []

    def images():
        for i in range(3):
            read.append(i)
            yield scene(64, 64, red=(0, 0, 30, 30))

    results = detector.stream(images())
    assert read == []
    next(results)
    assert read == [0]


def test_results_of_an_image_do_not_change_when_the_next_one_runs(build):
    detector = Detector(build())
    first, second = detector([scene(64, 64, red=(0, 0, 30, 30)), scene(64, 64, red=(10, 10, 20, 20))])
    assert first.boxes.tolist() == [[0, 0, 30, 30]]
    assert second.boxes.tolist() == [[10, 10, 20, 20]]


def test_a_gap_in_the_labels_is_named_by_its_number(build):
    detector = Detector(build(labels=[None, "green"]))
    [detections] = detector([scene(64, 64, red=(0, 0, 9, 9), green=(20, 20, 40, 40), blue=(50, 50, 60, 60))])
    assert detections.labels == ["0", "green", "2"]


@pytest.mark.parametrize(
    "images", ["a.jpg", Path("a.jpg"), b"bytes", np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4)), None]
)
def test_one_image_instead_of_several_is_refused_by_a_stream(build, images):
    with pytest.raises(UserError, match="put it into a list"):
        Detector(build()).stream(images)


def test_one_image_in_gives_one_result_and_a_list_a_list(build):
    detector, image = Detector(build(batch=(1, 2, 2))), scene(64, 64, red=(0, 0, 9, 9))
    one = detector(image)
    assert one.labels == ["red"]
    assert detector([image]) == [one] and detector((image, image, image)) == [one] * 3
    assert detector([]) == []
    with pytest.raises(UserError, match=r"an iterator was given.*\.stream"):
        detector(iter([image]))


def test_a_path_is_the_results_source_and_an_image_in_memory_has_none(build, tmp_path):
    Image.fromarray(scene(64, 64, red=(0, 0, 9, 9))).save(tmp_path / "a.png")
    detector = Detector(build(batch=(1, 4, 4)))
    results = detector([str(tmp_path / "a.png"), scene(64, 64, red=(0, 0, 9, 9)), (tmp_path / "a.png").read_bytes()])
    assert [result.source for result in results] == [tmp_path / "a.png", None, None]
    assert results[0] == results[1] == results[2]


def test_an_array_of_opencvs_is_read_by_its_colour_order(build):
    detector, image = Detector(build()), scene(64, 64, red=(0, 0, 9, 9))
    assert detector(image[..., ::-1], color="bgr") == detector(image)
    assert detector(image[..., ::-1]).labels == ["blue"]
    [streamed] = detector.stream([image[..., ::-1]], color="bgr")
    assert streamed.labels == ["red"]
    with pytest.raises(UserError, match="unknown color 'brg'"):
        detector(image, color="brg")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_that_computes_nan_is_refused(build, monkeypatch, value):
    detector = Detector(build())
    outputs = {
        "boxes": np.full((1, 1, 4), value, np.float32),
        "scores": np.float32([[0.5]]),
        "classes": np.int32([[0]]),
    }
    monkeypatch.setattr(detector.engine, "backend", lambda batch: outputs)
    with pytest.raises(UserError, match="not finite"):
        list(detector([scene(8, 8)]))


def test_each_task_refuses_the_others_engine_and_names_the_right_class(build):
    with pytest.raises(UserError, match=r"engine for classification.*effedge\.Classifier"):
        Detector(build("classification", name="c"))
    with pytest.raises(UserError, match=r"engine for detection.*effedge\.Detector"):
        Classifier(build("detection", name="d"))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["spec"].pop("input"),
        lambda m: m["spec"].pop("labels"),
        lambda m: m["spec"]["input"].update(size=3),
        lambda m: m["spec"]["input"].update(batch=[1]),
        lambda m: m["spec"]["input"].update(resize="squash"),
        lambda m: m["spec"]["input"].pop("fill"),
        lambda m: m["spec"]["input"].update(interpolation="nearest"),
    ],
)
def test_a_damaged_spec_is_refused_on_loading(build, edit, change):
    folder = build()
    edit(folder, change)
    with pytest.raises(UserError, match="damaged manifest|is damaged"):
        Detector(folder)


def test_classifier_gives_the_five_best_with_softmax_scores(build):
    # Logits: the means of red, green, blue (2, 0, 1), then 0.25, 0.5, 0.75, 1; blue and the last are equal.
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (2, 0, 1)
    [best] = Classifier(build("classification", size=(16, 16)))([image])
    assert [best_class.class_id for best_class in best] == [0, 2, 6, 5, 4]
    assert [best_class.label for best_class in best] == ["a", "c", "g", "f", "e"]
    powers = [2.718281828459045**logit for logit in (2, 1, 1, 0.75, 0.5, 0.25, 0)]
    np.testing.assert_allclose([best_class.score for best_class in best], np.array(powers[:5]) / sum(powers), rtol=1e-6)


@pytest.mark.parametrize("batch", [(1, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_classifier_batches(build, batch):
    images = [np.zeros((20 + i, 30, 3), np.uint8) for i in range(5)]
    for i, image in enumerate(images):
        image[..., i % 3] = 200
    results = list(Classifier(build("classification", batch=batch))(images))
    assert [best[0].class_id for best in results] == [0, 1, 2, 0, 1]
    assert all(best[0].score == pytest.approx(1) for best in results)


def test_softmax_of_large_logits_does_not_overflow():
    np.testing.assert_allclose(softmax(np.float32([1000, 1000, -1000])), [0.5, 0.5, 0])


def test_results_can_be_written_as_json(build):
    [best] = Classifier(build("classification"))([scene(9, 9)])
    assert json.loads(json.dumps([best_class._asdict() for best_class in best]))[0]["label"] == "g"
