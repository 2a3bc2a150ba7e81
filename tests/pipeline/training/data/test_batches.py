"""Training samples follow from their index alone."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.digits import SHAPES, LabelledImage, draw_image
from effedge.pipeline.datasets.records import Record, class_record
from effedge.pipeline.models.anchors import decode, make_anchors
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.data.augment import Augmentation
from effedge.pipeline.training.data.batches import (
    IndexedDataset,
    collate_detection,
    digit_crops,
    digit_images,
    pass_errors_on,
    record_crops,
    record_images,
    shuffled,
    with_matches,
)
from effedge.pipeline.training.data.sources import Sampling, training_data
from effedge.pipeline.training.matching import MATCHINGS, match
from effedge.pipeline.weights.published import preprocessing

FILL = (0, 0, 0)
STILL = Augmentation(flips=False, jitter=(1.0, 1.0))


@pytest.fixture
def records(tmp_path):
    """Five images, each of a grey level of its own, with a box of class k and an ignored one."""
    made = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (80, 60), (50 * index,) * 3).save(path)
        boxes = np.array([[10, 10, 50, 50], [0, 0, 80, 60]], np.float32)
        areas = np.array([1600, 4800], np.float32)
        made.append(Record(path, boxes, np.array([index, 9]), areas, np.array([False, True])))
    return made


def test_every_epoch_is_a_permutation_of_its_own():
    which = shuffled(7, seed=3)
    epochs = [[which(index) for index in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [shuffled(7, seed=3)(index) for index in range(7)] == epochs[0]
    assert [shuffled(7, seed=4)(index) for index in range(7)] != epochs[0]


def test_a_sample_does_not_depend_on_what_was_drawn_before(records):
    arguments = (records, Size(64, 64), 0, Augmentation(), FILL)
    all_of_them, later = record_images(*arguments), record_images(*arguments)
    drawn = [all_of_them(index) for index in range(12)]
    for index in (11, 5, 5, 0):
        for a, b in zip(drawn[index], later(index), strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_image_looks_different_in_every_epoch(records):
    draw = record_images(records[:1], Size(64, 64), 0, Augmentation(), FILL)
    boxes = {draw(index).boxes.tobytes() for index in range(6)}
    assert len(boxes) > 3


def test_an_image_comes_with_its_own_objects_and_without_the_ignored(records):
    draw = record_images(records, Size(64, 64), 0, STILL, FILL)
    for index in range(10):
        image, boxes, class_ids = draw(index)
        assert class_ids.tolist() == [image[0, 0, 0] // 50]
        np.testing.assert_allclose(boxes, [[8, 8, 40, 40]])


def test_flips_happen_half_of_the_time_or_never(tmp_path):
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[:, :30] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    whole = np.array([[0, 0, 30, 60]], np.float32)
    record = Record(tmp_path / "half.png", whole, np.array([0]), np.array([1.0]), np.array([False]))
    for flips, least, most in ((True, 0.35, 0.65), (False, 0, 0)):
        draw = record_images([record], Size(32, 32), 0, STILL._replace(flips=flips), FILL)
        drawn = [draw(index) for index in range(100)]
        flipped = [image[0, 0, 0] == 0 for image, _, _ in drawn]
        assert least <= np.mean(flipped) <= most
        assert all((boxes[0, 0] == 16) == was for (_, boxes, _), was in zip(drawn, flipped, strict=True))


def test_quarter_turns_are_equally_many_and_take_the_boxes_along(tmp_path):
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[:20, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    corner = np.array([[0, 0, 20, 20]], np.float32)
    record = Record(tmp_path / "corner.png", corner, np.array([0]), np.array([1.0]), np.array([False]))
    draw = record_images([record], Size(60, 60), 0, STILL._replace(rotate90=True), FILL)
    found = [tuple(draw(index).boxes[0]) for index in range(200)]
    assert {(0, 0, 20, 20), (40, 0, 60, 20), (0, 40, 20, 60), (40, 40, 60, 60)} == set(found)
    assert min(found.count(box) for box in set(found)) > 30
    for index in range(8):
        image, boxes, _ = draw(index)
        x0, y0, x1, y1 = boxes[0].astype(int)
        assert image[y0:y1, x0:x1].min() == 255


def test_colours_vary_in_the_image_and_not_in_the_fill(tmp_path):
    Image.new("RGB", (64, 32), (120, 60, 90)).save(tmp_path / "wide.png")
    record = Record(tmp_path / "wide.png", np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))
    draw = record_images([record], Size(64, 64), 0, STILL._replace(colour=0.3), FILL)
    shown = [draw(index).image for index in range(10)]
    assert len({tuple(image[0, 0]) for image in shown}) > 5
    assert all((image[40:] == 0).all() for image in shown)


def test_class_crops_carry_the_images_class(records):
    classes = [class_record(record.path, 7 + k) for k, record in enumerate(records)]
    draw = record_crops(classes, Size(32, 32), 0, Augmentation(),
                        preprocessing("b0", ""))  # fmt: skip
    for index in range(10):
        pixels, class_id = draw(index)
        assert pixels.shape == (32, 32, 3) and class_id == 7 + pixels[0, 0, 0] // 50


def test_class_crops_of_evaluation_are_stretched_where_the_model_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    augmentation = STILL._replace(evaluation_crop=True)
    for model, expected in (
        ("v2-m", Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)),
        ("v2-s", Image.fromarray(pixels).resize((72, 32), Image.Resampling.BICUBIC).crop((20, 0, 52, 32))),
    ):
        draw = record_crops([class_record(tmp_path / "wide.png", 0)], Size(32, 32), 0, augmentation,
                            preprocessing(model, ""))  # fmt: skip
        np.testing.assert_array_equal(draw(0)[0], np.asarray(expected))


def test_an_unreadable_image_becomes_an_error_in_place_of_its_batch(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    records = [class_record(tmp_path / "text.png", 0)]
    draw = record_crops(records, Size(32, 32), 0, Augmentation(), preprocessing("b0", ""))
    batch = pass_errors_on(list)([IndexedDataset(draw, 0, 2)[0], 1])
    assert isinstance(batch, UserError) and "text.png" in str(batch)
    assert pass_errors_on(list)([1, 2]) == [1, 2]


def test_going_on_at_a_step_gives_the_samples_from_there():
    whole, rest = IndexedDataset(lambda index: index, 0, 10), IndexedDataset(lambda index: index, 6, 10)
    assert len(rest) == 4 and [rest[k] for k in range(4)] == [whole[k] for k in range(6, 10)]


def test_targets_in_a_batch_decode_to_the_boxes_of_their_images():
    boxes = [np.array([[10, 20, 70, 90], [60, 60, 100, 100]], np.float32), np.zeros((0, 4), np.float32),
             np.array([[0, 0, 128, 128]], np.float32)]  # fmt: skip
    classes = [np.array([3, 4]), np.zeros(0, np.int64), np.array([5])]
    anchors = make_anchors((128, 128), 5, 4.0)
    draw = with_matches(lambda k: LabelledImage(np.full((128, 128, 3), k, np.uint8), boxes[k], classes[k]), anchors)
    batch = collate_detection([draw(0), draw(1), draw(2)])
    assert batch.images.shape == (3, 128, 128, 3) and batch.images.dtype == torch.uint8
    decoded = decode(batch.codes.numpy(), anchors[batch.anchor_indices.numpy()])
    for k in range(3):
        of_k = (batch.image_indices == k).numpy()
        for box, class_id in zip(decoded[of_k], batch.class_ids.numpy()[of_k], strict=True):
            np.testing.assert_allclose(box, boxes[k][classes[k].tolist().index(class_id)], atol=1e-2)
        assert set(batch.class_ids.numpy()[of_k]) == set(classes[k])


def test_digits_follow_from_seed_and_index():
    for make in (partial(digit_images, Size(64, 96), fill=FILL), partial(digit_crops, 64)):
        first, again, other = make(seed=0)(5), make(seed=0)(5), make(seed=1)(5)
        np.testing.assert_array_equal(first[0], again[0])
        assert not np.array_equal(first[0], other[0])


def test_drawn_images_are_letterboxed_as_the_written_ones_and_no_digit_is_cut():
    """Validation's images are of several shapes, so training's must have the fill beside them too."""
    draw = digit_images(Size(128, 128), 0, FILL)
    for index, (height, width) in enumerate(SHAPES):
        drawn = draw(index)
        original = draw_image("train", index, height // 4, width // 4, 0)
        assert drawn.image.shape == (128, 128, 3) and len(drawn.boxes) == len(original.boxes)
        scale = (drawn.boxes[:, 2:] - drawn.boxes[:, :2]) / (original.boxes[:, 2:] - original.boxes[:, :2])
        most = min(128 / (height // 4), 128 / (width // 4))
        assert np.all((scale >= 0.68 * most) & (scale <= 1.01 * most))
        rest = drawn.image[round(height / 4 * most) + 1 :], drawn.image[:, round(width / 4 * most) + 1 :]
        assert all((part == FILL).all() for part in rest)
        np.testing.assert_array_equal(drawn.class_ids, original.class_ids)


def test_a_detector_learns_the_codes_of_its_own_anchors():
    size, fill = Size(128, 128), (124, 116, 104)
    # effdet 0.4.1: tf_efficientdet_d0's aspect_ratios are (1.4, 0.7) and (0.7, 1.4), efficientdetv2_dt's 2 and 0.5
    wide = {"det-v2-b0": (1.4, 0.7), "efficientdetv2_dt": (2**0.5, 0.5**0.5)}
    for model, (long, short) in wide.items():
        aspects = [(1, 1), (long, short), (short, long)]
        data = training_data(model, "digits", None, size, Sampling())
        _, boxes, class_ids = digit_images(size, 0, fill)(0)
        _, matches = data.draw(0)
        decoded = decode(matches.codes, make_anchors(size, 5, 4.0, aspects)[matches.anchors])
        assert len(boxes) > 0 and set(matches.class_ids) <= set(class_ids)
        for box in decoded:
            assert np.abs(boxes - box).max(axis=1).min() < 1e-3


def test_the_matching_of_the_sampling_decides_the_anchors_that_learn():
    size = Size(128, 256)
    anchors = make_anchors(size, 5, 4.0)
    _, boxes, class_ids = digit_images(size, 0, FILL)(0)
    expected = {matching: match(boxes, class_ids, anchors, matching) for matching in MATCHINGS}
    for matching, matches in expected.items():
        _, found = training_data("d0", "digits", None, size, Sampling(matching=matching)).draw(0)
        np.testing.assert_array_equal(found.anchors, matches.anchors)
    assert len(expected["compensated"].anchors) > len(expected["iou"].anchors)
