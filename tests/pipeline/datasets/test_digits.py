"""The digits: the same everywhere, nothing shared between splits, exact boxes, every size, as COCO's reader reads."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from effedge.pipeline.datasets import digits
from effedge.pipeline.datasets.digits import (
    LABELS,
    LARGEST_ANGLE,
    PHOTOGRAPHS,
    SHAPES,
    SPLITS,
    draw_crop,
    draw_image,
    stroke,
)

COUNT = 32


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A written detection data set of the validation split."""
    folder = tmp_path_factory.mktemp("digits") / "val"
    digits.write_detection(folder, "val", COUNT)
    return folder


@pytest.fixture(scope="module")
def coco(written):
    from pycocotools.coco import COCO

    return COCO(written / "instances.json")


def test_an_image_follows_from_its_arguments_alone():
    first = draw_image("train", 7, 96, 128)
    draw_image("train", 8, 96, 128)
    again = draw_image("train", 7, 96, 128)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.image.shape == (96, 128, 3) and first.image.dtype == np.uint8
    others = [draw_image("train", 8, 96, 128), draw_image("train", 7, 96, 128, seed=1)]
    assert not any(np.array_equal(first.image, other.image) for other in [*others, draw_image("val", 7, 96, 128)])
    crop, label = draw_crop("val", 3, 64)
    assert np.array_equal(crop, draw_crop("val", 3, 64)[0]) and label == draw_crop("val", 3, 64)[1]


def test_splits_share_no_digit():
    drawn = [{image.tobytes() for image in digits.digits_of(split)[0]} for split in SPLITS]
    for a, b in itertools.combinations(drawn, 2):
        assert not a & b
    assert sum(map(len, drawn)) == 1797  # all of scikit-learn's, each in one split


def test_splits_share_no_photograph():
    names = [set(PHOTOGRAPHS[split]) for split in SPLITS]
    for a, b in itertools.combinations(names, 2):
        assert not a & b
    small = [
        {np.asarray(Image.fromarray(photo).resize((16, 16))).tobytes() for photo in digits.photographs_of(split)}
        for split in SPLITS
    ]
    assert len(set.union(*small)) == sum(map(len, small)) == sum(map(len, names))


@pytest.mark.parametrize("split", SPLITS)
def test_a_digits_class_is_what_scikit_learn_says(split):
    from sklearn.datasets import load_digits

    data = load_digits()
    said = {(image / 16).astype(np.float32).tobytes(): target for image, target in zip(data.images, data.target)}  # noqa: B905
    images, targets = digits.digits_of(split)
    assert [said[image.tobytes()] for image in images] == targets.tolist()
    assert set(targets.tolist()) == set(range(10))


@pytest.mark.parametrize("index", range(12))
def test_a_box_is_tight_around_the_painted_pixels(index, monkeypatch):
    # One white digit on black: what is brighter than half is the digit.
    monkeypatch.setattr(digits, "background", lambda random, split, h, w: np.zeros((h, w, 3), np.uint8))
    monkeypatch.setattr(digits, "colour_against", lambda random, behind: np.full(3, 255.0))
    monkeypatch.setattr(digits, "MOST_DIGITS", 1)
    image, boxes, class_ids = draw_image("val", index, 320, 320)
    bright = image[..., 0] > 127.5
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert boxes.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
    outside = image.copy()
    x0, y0, x1, y1 = boxes[0].astype(int)
    outside[y0:y1, x0:x1] = 0
    assert not outside.any() and len(class_ids) == 1


def test_every_digit_stays_three_quarters_visible(monkeypatch):
    painted = []
    plain = digits.paint

    def paint(canvas, opacity, colour, top, left):
        mask = np.zeros(canvas.shape[:2], bool)
        mask[top : top + opacity.shape[0], left : left + opacity.shape[1]] = opacity > 0.5
        painted.append(mask)
        plain(canvas, opacity, colour, top, left)

    monkeypatch.setattr(digits, "paint", paint)
    overlapped = 0
    for index in range(25):
        painted.clear()
        drawn = draw_image("train", index, 128, 128)
        assert len(painted) == len(drawn.boxes) == len(drawn.class_ids)
        for below, mask in enumerate(painted):
            hidden = (mask & np.any([*painted[below + 1 :], np.zeros_like(mask)], axis=0)).sum()
            assert hidden <= 0.25 * mask.sum()
            overlapped += hidden > 0
    assert overlapped  # or nothing was tested


def test_digits_stand_out_from_what_is_behind_them():
    random, grey = np.random.default_rng(0), np.array([0.299, 0.587, 0.114])
    for level in (0, 60, 128, 200, 255):
        behind = np.full((4, 4, 3), level, np.uint8)
        for _ in range(20):
            assert abs(digits.colour_against(random, behind) @ grey - level) >= digits.LEAST_CONTRAST


def bar():
    """A vertical bar, as a digit of 8 x 8."""
    image = np.zeros((8, 8), np.float32)
    image[0:8, 3:5] = 1
    return image


def test_rotations_stay_within_20_degrees():
    random, angles = np.random.default_rng(0), []
    for _ in range(150):
        opacity = stroke(random, bar(), 120.0)
        y, x = np.nonzero(opacity > 0.5)
        values, vectors = np.linalg.eigh(np.cov(x, y))
        dx, dy = vectors[:, 1]  # along the bar
        angles.append(math.degrees(math.atan2(dx, dy) if dy > 0 else math.atan2(-dx, -dy)))
    assert LARGEST_ANGLE == 20  # beyond it a 6 may be a 9
    assert max(map(abs, angles)) < 20.5
    assert min(angles) < -15 and max(angles) > 15 and abs(np.mean(angles)) < 3


@pytest.mark.parametrize("height", [14.0, 40.0, 200.0])
def test_a_stroke_is_about_as_high_as_asked(height):
    random = np.random.default_rng(0)
    heights = [stroke(random, bar(), height).shape[0] for _ in range(20)]
    assert 0.8 * height < min(heights) and max(heights) < 1.25 * height + 2


def test_a_6_is_upright_and_not_mirrored():
    # The bar's top half is at the left: turned by 20 degrees at most it stays there.
    image = np.zeros((8, 8), np.float32)
    image[0:4, 1:4] = 1
    image[4:8, 4:7] = 1
    random = np.random.default_rng(0)
    for _ in range(30):
        opacity = stroke(random, image, 64.0)
        h, w = opacity.shape
        assert opacity[: h // 2, : w // 2].sum() > opacity[: h // 2, w // 2 :].sum()


def test_the_written_set_reads_with_pycocotools(coco, written):
    assert len(coco.getImgIds()) == COUNT
    assert [coco.cats[key]["name"] for key in sorted(coco.cats)] == list(LABELS)
    for image in coco.dataset["images"]:
        with Image.open(written / "images" / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
    assert {(image["height"], image["width"]) for image in coco.dataset["images"]} == set(SHAPES)


def test_boxes_lie_in_their_images_and_are_valid_coco(coco):
    for annotation in coco.dataset["annotations"]:
        image, (x, y, w, h) = coco.imgs[annotation["image_id"]], annotation["bbox"]
        assert min(x, y) >= 0 and min(w, h) > 0 and x + w <= image["width"] and y + h <= image["height"]
        assert annotation["area"] == w * h and annotation["category_id"] in coco.cats and annotation["iscrowd"] == 0
    ids = [annotation["id"] for annotation in coco.dataset["annotations"]]
    assert len(set(ids)) == len(ids) and 0 not in ids  # pycocotools takes an id of 0 for no match


def test_there_are_small_medium_and_large_objects_of_every_class(coco):
    areas = np.array([annotation["area"] for annotation in coco.dataset["annotations"]])
    shares = [np.mean(areas < 32**2), np.mean((areas >= 32**2) & (areas < 96**2)), np.mean(areas >= 96**2)]
    assert min(shares) > 0.1, shares
    assert {annotation["category_id"] for annotation in coco.dataset["annotations"]} == set(coco.cats)
    per_image = [len(coco.getAnnIds(image)) for image in coco.getImgIds()]
    assert min(per_image) >= 1 and max(per_image) <= 12


def test_its_own_boxes_as_detections_have_an_ap_of_1(coco):
    from pycocotools.cocoeval import COCOeval

    keys = ("image_id", "category_id", "bbox")
    found = [{key: annotation[key] for key in keys} | {"score": 0.9} for annotation in coco.dataset["annotations"]]
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    assert min(evaluation.stats[3:6]) == pytest.approx(1.0)  # small, medium and large are there


def test_a_crop_holds_its_whole_digit(monkeypatch):
    monkeypatch.setattr(digits, "background", lambda random, split, h, w: np.zeros((h, w, 3), np.uint8))
    monkeypatch.setattr(digits, "colour_against", lambda random, behind: np.full(3, 255.0))
    for index in range(20):
        image, class_id = draw_crop("calibration", index, 64)
        rows = np.flatnonzero((image[..., 0] > 127).any(1))
        assert image.shape == (64, 64, 3) and 0 <= class_id <= 9
        assert 0.3 * 64 < len(rows) <= 64  # 0.4 to 0.8 of the crop, turned and stretched


def test_the_classification_set_has_a_folder_per_class(tmp_path):
    digits.write_classification(tmp_path / "val", "val", 30, 32)
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == list(LABELS)
    files = sorted((tmp_path / "val").rglob("*.png"))
    assert len(files) == 30
    for path in files:
        index = int(path.stem.rpartition("-")[2])
        image, class_id = draw_crop("val", index, 32)
        assert path.parent.name == LABELS[class_id]
        assert np.array_equal(np.asarray(Image.open(path)), image)
