"""Letterbox, centre crop and stretch: sizes worked by hand, pixels against Pillow's steps written out, and the way
back."""

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.image.preprocess import (
    LARGEST_ASPECT_RATIO,
    boxes_to_image,
    center_crop,
    letterbox,
    preparation,
    resized_size,
    shortened,
    stretch,
)
from effedge.deploy.image.resample import FILTERS

BILINEAR, BICUBIC = FILTERS["bilinear"], FILTERS["bicubic"]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image_size", "size", "resized_size"),
    [
        ((480, 640), (512, 512), (384, 512)),  # scale 0.8
        ((640, 480), (512, 512), (512, 384)),
        ((100, 200), (512, 512), (256, 512)),  # scaled up by 2.56
        ((333, 500), (512, 512), (341, 512)),  # 333 x 1.024 = 340.99
        ((427, 640), (512, 512), (342, 512)),  # 427 x 0.8 = 341.6
        ((512, 512), (512, 512), (512, 512)),
        ((100, 100), (64, 128), (64, 64)),  # the height decides
        ((2, 5000), (512, 512), (1, 512)),  # 0.2 of a pixel becomes one
        ((5000, 2), (512, 512), (512, 1)),
        ((1, 1), (512, 512), (512, 512)),
    ],
)
def test_letterbox_sizes(image_size, size, resized_size):
    prepared = letterbox(noise(*image_size), size, [124, 116, 104], BILINEAR)
    assert prepared.pixels.shape == (*size, 3)
    assert prepared.pixels.dtype == np.uint8
    assert prepared.image_size == image_size
    assert prepared.resized_size == resized_size


def test_letterbox_places_the_image_top_left_and_fills_the_rest():
    image = noise(60, 120)
    prepared = letterbox(image, (64, 64), [1, 2, 3], BILINEAR)
    expected = np.asarray(Image.fromarray(image).resize((64, 32), FILTERS["bilinear"]))
    np.testing.assert_array_equal(prepared.pixels[:32], expected)
    assert (prepared.pixels[32:] == [1, 2, 3]).all()


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize(
    "image_size", [(480, 640), (640, 480), (720, 1280), (1080, 1920), (427, 640), (500, 333), (410, 509), (300, 300)]
)
def test_letterbox_is_pillows_resize_to_the_last_bit(image_size, resample):
    image = noise(*image_size)
    prepared = letterbox(image, (512, 512), (1, 2, 3), resample)
    height, width = prepared.resized_size
    expected = np.asarray(Image.fromarray(image).resize((width, height), resample))
    np.testing.assert_array_equal(prepared.pixels[:height, :width], expected)


def test_letterbox_averages_when_it_shrinks():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    shrunk = letterbox(stripes, (32, 32), [0, 0, 0], BILINEAR).pixels
    assert abs(shrunk[:, 2:-2].astype(int) - 100).max() <= 2  # without antialiasing: 0 or 200


def test_boxes_return_by_the_real_ratio_of_each_axis():
    prepared = letterbox(noise(333, 500), (512, 512), [0, 0, 0], BILINEAR)  # resized to 341 x 512
    boxes = np.float32([[0, 0, 512, 341], [256, 170.5, 512, 341]])
    back = boxes_to_image(boxes, prepared)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, [[0, 0, 500, 333], [250, 166.5, 500, 333]], rtol=1e-6)


def test_boxes_are_clipped_to_the_image():
    prepared = letterbox(noise(100, 200), (64, 64), [0, 0, 0], BILINEAR)
    back = boxes_to_image(np.float32([[-5, -5, 64, 64], [70, 40, 90, 50]]), prepared)
    np.testing.assert_array_equal(back, [[0, 0, 200, 100], [200, 100, 200, 100]])


def test_a_marked_rectangle_is_found_where_it_was():
    image = np.zeros((300, 400, 3), np.uint8)
    image[60:180, 100:220] = 255
    prepared = letterbox(image, (200, 200), [0, 0, 0], BILINEAR)  # scale 1/2
    rows, columns = np.nonzero(prepared.pixels[..., 0] > 127)
    box = np.float32([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    np.testing.assert_array_equal(boxes_to_image(box, prepared), [[100, 60, 220, 180]])


@pytest.mark.parametrize(
    ("image_size", "size", "crop", "resized_size", "corner"),
    [
        # timm's and torchvision's numbers by hand: (floor(224 / 0.875)) = 256, int(256 x 640 / 480) = 341
        ((480, 640), 224, 0.875, (256, 341), (16, 58)),  # (341 - 224) / 2 = 58.5 -> 58, to even as Python rounds
        ((640, 480), 224, 0.875, (341, 256), (58, 16)),
        ((500, 375), 224, 0.875, (341, 256), (58, 16)),
        ((500, 333), 224, 0.875, (384, 256), (80, 16)),  # 384.38
        ((300, 500), 240, 0.882, (272, 453), (16, 106)),  # floor(272.1); int(453.3); (453 - 240) / 2 = 106.5 -> 106
        ((100, 100), 224, 1.0, (224, 224), (0, 0)),
        ((300, 400), 380, 0.922, (412, 549), (16, 84)),  # floor(412.1), int(549.3); 84.5 -> 84
    ],
)
@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
def test_center_crop_is_resize_then_crop(image_size, size, crop, resized_size, corner, resample):
    image = noise(*image_size)
    prepared = center_crop(image, (size, size), crop, resample)
    whole = Image.fromarray(image).resize((resized_size[1], resized_size[0]), resample)
    top, left = corner
    expected = np.asarray(whole.crop((left, top, left + size, top + size)))
    assert prepared.resized_size == resized_size
    np.testing.assert_array_equal(prepared.pixels, expected)


@pytest.mark.parametrize("image_size", [(1, 60_000), (60_000, 1), (3, 5), (1, 1)])
def test_center_crop_of_extreme_images_has_the_right_size(image_size):
    prepared = center_crop(noise(*image_size), (32, 32), 0.875, BICUBIC)
    assert prepared.pixels.shape == (32, 32, 3)
    assert max(prepared.resized_size) <= 36 * LARGEST_ASPECT_RATIO


def test_center_crop_of_a_sliver_shows_its_middle():
    sliver = np.zeros((2, 20_000, 3), np.uint8)
    sliver[:, 9_900:10_100] = 255
    assert (center_crop(sliver, (32, 32), 0.875, BILINEAR).pixels == 255).all()


def test_preparation_follows_the_spec():
    image = noise(50, 90)
    boxed = preparation({"size": [32, 48], "resize": "letterbox", "interpolation": "bilinear", "fill": [9, 8, 7]})
    np.testing.assert_array_equal(boxed(image).pixels, letterbox(image, (32, 48), [9, 8, 7], BILINEAR).pixels)
    cut = preparation({"size": [32, 32], "resize": "center-crop", "interpolation": "bicubic", "crop": 0.9})
    np.testing.assert_array_equal(cut(image).pixels, center_crop(image, (32, 32), 0.9, BICUBIC).pixels)
    whole = preparation({"size": [32, 48], "resize": "stretch", "interpolation": "bicubic"})
    np.testing.assert_array_equal(whole(image).pixels, stretch(image, (32, 48), 1.0, BICUBIC).pixels)
    part = preparation({"size": [32, 48], "resize": "stretch", "interpolation": "bicubic", "crop": 0.9})
    np.testing.assert_array_equal(part(image).pixels, stretch(image, (32, 48), 0.9, BICUBIC).pixels)
    with pytest.raises(ValueError, match="unknown resize 'squash', this effedge has letterbox, center-crop or stretch"):
        preparation({"size": [32, 32], "resize": "squash", "interpolation": "bicubic"})


def by_axis(image, size, resample):
    """Pillow's resize of the rows, then of the columns."""
    height, width = size
    narrow = Image.fromarray(image).resize((width, image.shape[0]), resample)
    return np.asarray(narrow.resize((width, height), resample))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 300), (240, 320), (33, 500)])
@pytest.mark.parametrize(
    "image_size", [(480, 640), (640, 480), (1080, 1920), (3000, 500), (21, 13), (1, 1), (1, 60), (60, 1), (300, 300)]
)
def test_a_stretch_is_pillows_resize_of_each_axis_to_the_last_bit(image_size, size, interpolation):
    """In C++ where there is a compiler, bilinear, in two threads for the third image, and in Pillow."""
    image, resample = noise(*image_size), FILTERS[interpolation]
    prepare = preparation({"size": list(size), "resize": "stretch", "interpolation": interpolation})
    expected = by_axis(image, size, resample)
    for prepared in (prepare(image), stretch(image, size, 1.0, resample)):
        np.testing.assert_array_equal(prepared.pixels, expected)
        assert (prepared.image_size, prepared.resized_size) == (image_size, size)


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("image_size", [(480, 640), (640, 480), (720, 1280), (427, 640), (300, 300)])
def test_a_stretch_is_pillows_resize_in_one_call(image_size, resample):
    """Which is torchvision's and so timm's, but for tall images, whose columns Pillow resizes first from 13 on."""
    image = noise(*image_size)
    expected = np.asarray(Image.fromarray(image).resize((480, 480), resample))
    np.testing.assert_array_equal(stretch(image, (480, 480), 1.0, resample).pixels, expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "crop", "resized", "corner"),
    [
        # timm's squash by hand, for tf_efficientnetv2_b3: floor(300 / 0.9) = 333, (333 - 300) / 2 = 16.5 -> 16, even
        ((300, 300), 0.9, (333, 333), (16, 16)),
        ((224, 320), 0.875, (256, 365), (16, 22)),  # floor(365.7); (365 - 320) / 2 = 22.5 -> 22
        ((300, 300), 1.0, (300, 300), (0, 0)),
    ],
)
def test_a_stretch_with_a_crop_keeps_the_centre(size, crop, resized, corner, interpolation):
    image = noise(400, 500)
    prepare = preparation({"size": list(size), "resize": "stretch", "interpolation": interpolation, "crop": crop})
    (top, left), (height, width) = corner, size
    expected = by_axis(image, resized, FILTERS[interpolation])[top : top + height, left : left + width]
    assert prepare(image).resized_size == resized
    np.testing.assert_array_equal(prepare(image).pixels, expected)


def test_boxes_of_a_stretched_image_return_by_each_axis_own_ratio():
    image = np.zeros((300, 400, 3), np.uint8)
    image[60:180, 100:220] = 255
    prepared = stretch(image, (100, 200), 1.0, BILINEAR)  # a third of the height, a half of the width
    rows, columns = np.nonzero(prepared.pixels[..., 0] > 127)
    box = np.float32([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    np.testing.assert_array_equal(box, [[50, 20, 110, 60]])
    np.testing.assert_allclose(boxes_to_image(box, prepared), [[100, 60, 220, 180]], rtol=1e-6)
    np.testing.assert_array_equal(boxes_to_image(np.float32([[-9, 50, 210, 100]]), prepared), [[0, 150, 400, 300]])


def test_the_resized_size_follows_the_spec():
    spec = {"size": [240, 320], "interpolation": "bilinear"}
    assert resized_size((100, 50), {**spec, "resize": "letterbox"}) == (240, 120)
    assert resized_size((100, 50), {**spec, "resize": "stretch"}) == (240, 320)
    assert resized_size((100, 50), {**spec, "resize": "stretch", "crop": 0.75}) == (320, 426)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_a_stretched_sliver_takes_no_more_memory_than_its_shape_needs(resample):
    """As wide as the input, 10 million rows would take 14 GB."""
    sliver = np.zeros((10_000_000, 1, 3), np.uint8)
    sliver[: 10_000_000 // 2] = 255
    assert shortened(sliver).shape == (64, 1, 3) and shortened(sliver.transpose(1, 0, 2)).shape == (1, 64, 3)
    prepare = preparation({"size": [480, 480], "resize": "stretch", "interpolation": resample})
    for axes in ((0, 1, 2), (1, 0, 2)):
        image = sliver.transpose(axes)
        prepared = prepare(image)
        rows = prepared.pixels.transpose(axes)
        assert rows[:230].min() == 255 and rows[250:].max() == 0
        assert prepared.image_size == image.shape[:2] and prepared.resized_size == (480, 480)
