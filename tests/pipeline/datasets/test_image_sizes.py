"""Boxes against the images that they are of: turned by EXIF, resized, or of another image."""

import json

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.pipeline.datasets.checks import check_data
from effedge.pipeline.datasets.image_sizes import read_size, stated_size
from effedge.pipeline.datasets.read import read_data

SIZE = (120, 80)  # of the stored pixels
BOX = (10, 20, 50, 70)  # xyxy in the stored pixels


def write_image(path, orientation=None, size=SIZE, box=BOX):
    """A black image with a white box; `box` is in the stored pixels."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


def seen_box(path):
    """The white box of an image as it is shown, xyxy."""
    ys, xs = np.nonzero(open_image(path)[..., 0] > 127)
    return [int(side) for side in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


def coco(folder, rows):
    """A COCO json of (file name, stated size, box xyxy)."""
    images, annotations = [], []
    for index, (name, size, (x0, y0, x1, y1)) in enumerate(rows):
        images.append(
            {"id": index, "file_name": name, **({} if size is None else {"width": size[0], "height": size[1]})}
        )
        annotations.append({"id": index, "image_id": index, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "data.json").write_text(json.dumps(content))
    return folder / "data.json"


def boxes(data):
    return [[round(float(side)) for side in box] for record in data.records for box in record.boxes]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_stored_pixels_are_turned_as_the_image_is(tmp_path, orientation, suffix):
    # Orientations 2 to 4 keep the size: that the boxes are of the stored pixels is told by the other image.
    turned, other = write_image(tmp_path / f"a{suffix}", orientation), write_image(tmp_path / "b.jpg", 6)
    data = read_data(coco(tmp_path, [(turned.name, SIZE, BOX), (other.name, SIZE, BOX)]))
    assert boxes(data) == [seen_box(turned), seen_box(other)]
    assert read_size(turned).upright == open_image(turned).shape[1::-1]
    assert any("their boxes are turned too" in note for note in data.notes)


@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_boxes_of_the_upright_image_stay(tmp_path, orientation):
    path = write_image(tmp_path / "a.jpg", orientation)
    seen = seen_box(path)
    data = read_data(coco(tmp_path, [("a.jpg", open_image(path).shape[1::-1], seen)]))
    assert boxes(data) == [seen] and data.notes == []
    assert boxes(read_data(coco(tmp_path, [("a.jpg", None, seen)]))) == [seen]  # no size says nothing
    assert boxes(read_data(coco(tmp_path, [("a.jpg", (0, 0), seen)]))) == [seen]


def test_without_another_image_to_tell_boxes_count_as_upright_and_a_note_says_so(tmp_path):
    write_image(tmp_path / "a.jpg", 3)
    data = read_data(coco(tmp_path, [("a.jpg", SIZE, BOX)]))
    assert boxes(data) == [list(BOX)]
    [note] = data.notes
    assert "1 images are turned by EXIF" in note and "no size tells" in note


def test_images_that_differ_in_what_their_boxes_are_of_leave_the_others_unknown(tmp_path):
    for name, orientation in (("a.jpg", 6), ("b.jpg", 6), ("c.jpg", 3)):
        write_image(tmp_path / name, orientation)
    path = coco(tmp_path, [("a.jpg", SIZE, BOX), ("b.jpg", SIZE[::-1], BOX), ("c.jpg", SIZE, BOX)])
    with pytest.raises(UserError, match="c.jpg' is turned by EXIF, and its size does not tell"):
        read_data(path)


@pytest.mark.parametrize("factor", [0.5, 2, 4 / 3])
@pytest.mark.parametrize("orientation", [1, 8])
def test_boxes_of_resized_images_are_scaled(tmp_path, factor, orientation):
    box = (10, 20, 110, 70)  # reaches over the smaller file
    size = tuple(round(factor * side) for side in SIZE)
    path = write_image(tmp_path / "a.png", orientation, size, [round(factor * side) for side in box])
    data = read_data(coco(tmp_path, [("a.png", SIZE, box)]))
    assert np.abs(np.subtract(boxes(data), [seen_box(path)])).max() <= 1
    assert data.records[0].areas[0] == pytest.approx(100 * 50 * factor**2, rel=0.02)
    assert any("were resized, and their boxes are scaled" in note for note in data.notes)


@pytest.mark.parametrize(
    ("stated", "box", "said"),
    [
        ((200, 80), BOX, "is 120 x 80 pixels and not 200 x 80, as its annotation says, by no turn and no scale"),
        ((1, 1), BOX, "is 120 x 80 pixels and not 1 x 1"),
        ((60, 40), (10, 20, 110, 70), "its boxes do not tell"),  # over the stated size
        ((240, 160), BOX, "its boxes do not tell"),  # within the file, which is the smaller
    ],
)
def test_sizes_that_explain_nothing_are_refused_with_both_sizes(tmp_path, stated, box, said):
    write_image(tmp_path / "a.jpg")
    path = coco(tmp_path, [("a.jpg", stated, box)])
    with pytest.raises(UserError, match=said) as caught:
        read_data(path)
    assert "\n" not in str(caught.value) and "take width and height out" in str(caught.value)


def test_a_voc_annotation_states_a_size_too(tmp_path):
    image = write_image(tmp_path / "JPEGImages" / "a.jpg", 6)
    (tmp_path / "Annotations").mkdir()
    x0, y0, x1, y1 = BOX
    (tmp_path / "Annotations" / "a.xml").write_text(
        f"<annotation><size><width>120</width><height>80</height></size><object><name>box</name><bndbox>"
        f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object></annotation>"
    )
    assert boxes(read_data(tmp_path)) == [seen_box(image)]
    checked = check_data(str(tmp_path), None)
    assert checked.sizes.tolist() == [[80, 120]] and "turned too" in checked.notes[0]


def test_sizes_are_read_from_the_head_of_the_file_alone(tmp_path, monkeypatch):
    for suffix in (".jpg", ".png"):
        whole = write_image(tmp_path / f"a{suffix}", size=(400, 300)).read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) * 3 // 4])
        assert read_size(tmp_path / f"cut{suffix}").stored == (400, 300)


@pytest.mark.parametrize(
    ("given", "size"),
    [((640, 480), (640, 480)), (("640", " 480 "), (640, 480)), ((None, 3), None), (("", ""), None), ((0, 0), None),
     ((-1, 5), None), (("wide", 5), None), ((float("nan"), 5), None), ((float("inf"), 5), None)],
)  # fmt: skip
def test_what_is_no_size_states_none(given, size):
    assert stated_size(*given) == size
