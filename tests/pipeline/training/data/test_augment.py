"""Augmentation: what is in a box before it is in the box after, and what is cut away is gone."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from effedge.pipeline.training.data.augment import (
    CROP_AREA,
    CROP_ASPECT,
    colour_matrix,
    flip,
    random_crop,
    recolour,
    rotate90,
    scale_jitter,
)

RED, FILL = (255, 0, 0), (1, 2, 3)


def make_image(height, width, box):
    """A black image with a red rectangle at `box`, and that box."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = RED
    return image, np.array([box], np.float32)


def red_box(image):
    """The red part of an image, xyxy, from its pixels."""
    rows, columns = np.nonzero(image[..., 0] > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_a_flipped_box_lies_around_the_flipped_object():
    image, boxes = make_image(20, 50, (5, 2, 20, 9))
    mirrored, moved = flip(image, boxes)
    np.testing.assert_array_equal(moved, [[30, 2, 45, 9]])
    np.testing.assert_array_equal(red_box(mirrored), moved[0])
    again, back = flip(mirrored, moved)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back, boxes)


@pytest.mark.parametrize("quarters", range(4))
def test_a_turned_box_lies_around_the_turned_object(quarters):
    image, boxes = make_image(20, 50, (5, 2, 20, 9))
    turned, moved = rotate90(image, boxes, quarters)
    np.testing.assert_array_equal(turned, np.rot90(image, quarters))
    np.testing.assert_array_equal(red_box(turned), moved[0])


def test_the_colour_jitter_is_pillows_brightness_contrast_and_saturation():
    image = np.random.default_rng(0).integers(60, 190, (20, 30, 3), np.uint8)
    random = np.random.default_rng(5)
    brightness, contrast, saturation = np.random.default_rng(5).uniform(0.7, 1.3, 3)
    expected = Image.fromarray(image)
    grey = Image.new("RGB", expected.size, (128, 128, 128))
    expected = ImageEnhance.Color(expected).enhance(saturation)
    expected = ImageEnhance.Brightness(Image.blend(grey, expected, contrast)).enhance(brightness)
    np.testing.assert_allclose(recolour(image, colour_matrix(random, 0.3)), np.asarray(expected), atol=3)


@pytest.mark.parametrize("jitter", [(0.1, 2.0), (0.3, 0.3), (1.0, 1.0), (3.0, 3.0)])
@pytest.mark.parametrize("shape", [(300, 200), (96, 160), (40, 40)])
def test_the_jittered_box_lies_around_what_is_seen_of_the_object(jitter, shape):
    height, width = shape
    image, boxes = make_image(height, width, (width // 4, height // 3, width * 3 // 4, height * 2 // 3))
    for seed in range(20):
        pixels, moved, kept = scale_jitter(np.random.default_rng(seed), image, boxes, (96, 96), jitter, FILL)
        assert pixels.shape == (96, 96, 3) and pixels.dtype == np.uint8 and moved.dtype == np.float32
        if len(kept) and (moved[0, 2:] - moved[0, :2]).min() > 3:  # thinner ones blur away
            np.testing.assert_allclose(red_box(pixels), moved[0], atol=1.0)
        assert (moved >= 0).all() and (moved <= 96).all()


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
def test_a_scale_of_one_is_the_runtimes_letterbox(size):
    from effedge.deploy.image.preprocess import letterbox

    image = np.random.default_rng(0).integers(0, 256, (70, 110, 3), np.uint8)
    pixels, moved, _ = scale_jitter(np.random.default_rng(1), image, np.array([[0, 0, 110, 70]]), size, (1, 1), FILL)
    expected = letterbox(image, size, FILL, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels, expected.pixels)
    np.testing.assert_array_equal(moved, [[0, 0, *expected.resized_size[::-1]]])


def test_a_small_scale_lies_top_left_on_the_fill():
    image = np.full((50, 100, 3), 200, np.uint8)
    pixels, _, _ = scale_jitter(np.random.default_rng(0), image, np.zeros((0, 4)), (80, 80), (0.5, 0.5), FILL)
    assert (pixels[:20, :40] == 200).all()
    assert (pixels[20:] == FILL).all() and (pixels[:, 40:] == FILL).all()


def test_boxes_outside_the_window_or_thinner_than_a_pixel_are_dropped_and_the_others_keep_their_number():
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[0, 0, 3, 3], [0, 0, 100, 100], [97, 97, 100, 100], [40, 40, 60, 60.0]])
    kept_by_seed = []
    for seed in range(50):
        _, moved, kept = scale_jitter(np.random.default_rng(seed), image, boxes, (50, 50), (2, 2), FILL)
        assert 1 in kept and len(moved) == len(kept)
        assert ((moved[:, 2:] - moved[:, :2]) >= 1).all()
        kept_by_seed.append(tuple(kept))
    assert not any(0 in kept and 2 in kept for kept in kept_by_seed), "a window of half the image sees one corner"
    _, _, kept = scale_jitter(np.random.default_rng(0), image, boxes, (50, 50), (0.2, 0.2), FILL)
    np.testing.assert_array_equal(kept, [1, 3])  # 3 pixels of 100 are 0.3 at a tenth of the size


def test_scales_cover_the_range_evenly():
    """The side of a whole square image on the canvas tells the scale that was drawn."""
    image, box = np.zeros((200, 200, 3), np.uint8), np.array([[0, 0, 200, 200.0]])
    sides = []
    for seed in range(400):
        _, moved, _ = scale_jitter(np.random.default_rng(seed), image, box, (100, 100), (0.1, 2.0), FILL)
        sides.append(moved[0, 2] - moved[0, 0])
    assert min(sides) < 15 and max(sides) == 100
    # 0.9 of the range of 1.9 lies below 1.
    assert np.mean(np.array(sides) < 100) == pytest.approx(0.9 / 1.9, abs=0.08)


def test_random_crops_have_the_areas_and_aspects_of_the_paper():
    """An image whose red says its column and whose green says its row shows what part was taken."""
    height, width = 200, 250
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    areas, aspects = [], []
    for seed in range(200):
        crop = random_crop(np.random.default_rng(seed), image, (64, 64), Image.Resampling.BILINEAR).astype(float)
        assert crop.shape == (64, 64, 3)
        w = (crop[0, -1, 0] - crop[0, 0, 0]) * 64 / 63
        h = (crop[-1, 0, 1] - crop[0, 0, 1]) * 64 / 63
        areas.append(w * h / (height * width))
        aspects.append(w / h)
    assert CROP_AREA[0] * 0.9 < min(areas) < 0.15 and 0.8 < max(areas) <= 1.02
    assert CROP_ASPECT[0] * 0.95 < min(aspects) < 0.8 and 1.25 < max(aspects) < CROP_ASPECT[1] * 1.05


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (400, 3), (1, 5000)])
def test_slivers_can_be_augmented_too(shape):
    image = np.full((*shape, 3), 90, np.uint8)
    for seed in range(10):
        assert (random_crop(np.random.default_rng(seed), image, (32, 32), Image.Resampling.BICUBIC) == 90).all()
        boxes = np.array([[0, 0, shape[1], shape[0]]])
        pixels, _, _ = scale_jitter(np.random.default_rng(seed), image, boxes, (32, 32), (0.1, 2.0), FILL)
        assert pixels.shape == (32, 32, 3)
