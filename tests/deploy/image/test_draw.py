"""Checks drawn detections: their places and colours, that labels can be read, and that nothing leaves the image."""

import numpy as np
import pytest
from PIL import ImageDraw, ImageFont

from effedge.deploy.image.detections import Detections
from effedge.deploy.image.draw import class_colour, draw_detections, free_corner, plate_corner, text_colour


def found(*boxes, name="seven"):
    count = len(boxes)
    return Detections(
        boxes=np.float32(boxes).reshape(count, 4),
        scores=np.linspace(0.9, 0.3, count).astype(np.float32),
        classes=np.arange(count),
        labels=[name] * count,
    )


@pytest.fixture()
def plates(monkeypatch):
    """The plates drawn, each (x0, y0, x1, y1)."""
    drawn = []
    rectangle = ImageDraw.ImageDraw.rectangle

    def record(self, corners, fill=None, outline=None, width=1):
        if fill is not None:
            drawn.append(corners)
        rectangle(self, corners, fill=fill, outline=outline, width=width)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", record)
    return drawn


def luminance(colour):
    """Relative luminance, WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_box_is_outlined_in_its_classs_colour_and_the_original_is_untouched():
    image = np.full((200, 300, 3), 90, np.uint8)
    drawn = draw_detections(image, found([100, 80, 200, 160]))
    assert (image == 90).all()
    assert drawn.shape == image.shape
    colour = list(class_colour(0))
    for x, y in ((100, 120), (200, 120), (150, 160), (150, 80)):  # left, right, bottom, top
        assert drawn[y, x].tolist() == colour
    assert (drawn[100:150, 120:180] == 90).all()  # inside


def test_nothing_found_draws_nothing():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_detections(image, found()), image)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (24, 24), (64, 48), (480, 640), (2000, 3000)])
@pytest.mark.parametrize("name", ["7", "a very long label of a class that hardly fits anywhere"])
def test_any_image_and_any_box_can_be_drawn(size, name, plates):
    height, width = size
    boxes = [
        [0, 0, width, height],
        [0, 0, width / 3, height / 3],
        [width * 0.9, height * 0.9, width, height],
        [width / 2, 0, width / 2 + 0.01, 0.01],
        [width, height, width, height],
    ]
    image = np.zeros((height, width, 3), np.uint8)
    drawn = draw_detections(image, found(*boxes, name=name))
    assert drawn.shape == image.shape
    assert len(plates) == len(boxes)
    for x0, y0, x1, y1 in plates:
        assert x0 >= 0 and y0 >= 0
        if size >= (480, 640):  # smaller ones cannot hold the long label
            assert x1 <= width - 1 and y1 <= height - 1


def test_the_plate_is_above_the_box_or_below_its_edge_where_there_is_no_room():
    assert plate_corner((100, 100), (20, 50), (30, 10)) == (20, 40)
    assert plate_corner((100, 100), (20, 4), (30, 10)) == (20, 4)
    assert plate_corner((100, 100), (90, 50), (30, 10)) == (70, 40)  # moved left
    assert plate_corner((100, 100), (20, 99), (30, 10)) == (20, 89)
    assert plate_corner((20, 5), (10, 3), (30, 10)) == (0, 0)  # larger than the image


@pytest.mark.skipif(not hasattr(ImageFont, "load_default_imagefont"), reason="one size before Pillow 10.1")
def test_line_and_letters_grow_with_the_image():
    def coloured(size):
        image = np.zeros((size, size, 3), np.uint8)
        box = [size * 0.4, size * 0.4, size * 0.8, size * 0.8]
        drawn = draw_detections(image, found(box))
        return (drawn[round(size * 0.6)].max(axis=1) > 0).sum()  # across both vertical sides

    assert coloured(3000) >= 4 * coloured(400)


def test_colours_of_classes_differ_and_their_ink_is_readable():
    colours = [class_colour(i) for i in range(90)]
    assert len(set(colours)) == 90
    neighbours = [abs(np.subtract(colours[i], colours[i + 1])).sum() for i in range(89)]
    assert min(neighbours) > 100
    for colour in colours:
        lighter, darker = sorted((luminance(colour), luminance(text_colour(colour))), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2.1, AA


def test_a_label_takes_another_corner_of_its_box_where_a_better_one_lies():
    box, size = (20.0, 50.0, 80.0, 90.0), (30.0, 10.0)
    corners = [(20, 40), (50, 40), (20, 90), (50, 90)]
    taken = [(*corner, *size) for corner in corners]
    for count, corner in enumerate(corners):
        assert free_corner((200, 200), box, size, taken[:count]) == corner
    assert free_corner((200, 200), box, size, taken) == corners[0]  # none is free
    assert free_corner((200, 200), box, size, [(0, 30, 20, 10), (20, 30, 30, 10)]) == corners[0]  # they only touch


def test_labels_of_crossing_boxes_do_not_cover_each_other(plates):
    image = np.zeros((200, 400, 3), np.uint8)
    boxes = [[100, 80, 200, 160], [150, 82, 250, 150], [104, 84, 204, 164]]
    drawn = draw_detections(image, found(*boxes))
    assert len(plates) == 3
    for row, (x0, y0, x1, y1) in enumerate(reversed(plates)):  # the best is drawn last
        colours = drawn[round(y0) : round(y1) + 1, round(x0) : round(x1) + 1].reshape(-1, 3)
        assert not any((colours == class_colour(other)).all(axis=1).any() for other in range(3) if other != row)
