"""Anchors from effdet's boxes, from configurations, and from the user's words."""

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.anchors import ASPECTS, anchor_shapes, place_anchors
from effedge.pipeline.weights.anchor_spec import describe, equal_shapes, of_config, parse, recover

CUSTOM = anchor_shapes(5.0, [(1.9, 0.5), (1, 1)], [1, 1.2, 1.7, 2])
LEVELS = np.stack([anchor_shapes(scale) for scale in (4, 4, 5, 5, 6)])


def effdets_boxes(size, shapes):
    return place_anchors(size, 5, shapes)[:, [1, 0, 3, 2]]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("size", [(512, 512), (640, 384), (320, 320), (1536, 1536), (600, 600), (500, 300)])
@pytest.mark.parametrize("shapes", [anchor_shapes(4.0), anchor_shapes(3.0), CUSTOM, LEVELS], ids=len)
def test_size_and_shapes_are_recovered_from_the_boxes_of_effdets_buffer(size, shapes, dtype):
    grid = recover(effdets_boxes(size, shapes).astype(dtype), shapes.shape[-2], 5)
    assert grid.size == size and grid.shapes.ndim == shapes.ndim
    np.testing.assert_allclose(grid.shapes, shapes, rtol=1e-6 if dtype == np.float32 else 1e-3)
    assert equal_shapes(grid.shapes, shapes)


def test_effdets_own_numbers_are_read():
    """The first cells of its Anchors(3, 7, 2, [(1, 1), (1.9, 0.5), 2.0], 3.0, (256, 384)), the rest by its rule."""
    root = 2**0.5
    boxes = effdets_boxes((256, 384), anchor_shapes(3.0, [(1, 1), (1.9, 0.5), (root, 1 / root)], [1, root]))
    boxes[:2] = [[-8, -8, 16, 16], [-2, -18.8, 10, 26.8]]
    grid = recover(boxes, 6, 5)
    assert grid.size == (256, 384)
    assert describe(grid.shapes) == "base=3 scales=1,1.414 ratios=1x1,1.9x0.5,1.414x0.7071"


@pytest.mark.parametrize(
    "boxes",
    [
        np.random.default_rng(0).random((49104, 4)),
        effdets_boxes((512, 512), anchor_shapes(4.0))[:-9],
        effdets_boxes((512, 512), anchor_shapes(4.0))[:, [1, 0, 3, 2]] + [0, 0, 3, 0],
        effdets_boxes((512, 512), anchor_shapes(4.0))[::-1],
        np.zeros((0, 4)),
        np.zeros(7),
    ],
    ids=["random", "short", "moved", "reversed", "empty", "vector"],
)
def test_boxes_that_are_no_grid_are_not_taken_for_one(boxes):
    assert recover(boxes, 9, 5) is None


def test_another_number_of_levels_or_anchors_is_no_grid():
    boxes = effdets_boxes((512, 512), anchor_shapes(4.0))
    assert recover(boxes, 9, 6) is None and recover(boxes, 3, 5) is None


def test_a_description_is_read_as_the_same_anchors():
    for shapes in (anchor_shapes(4.0), CUSTOM, anchor_shapes(2.5, [(1, 1)], [1, 3])):
        assert equal_shapes(parse(describe(shapes), own_scale=9.0), shapes)
    assert describe(anchor_shapes(4.0)) == "base=4 scales=1,1.26,1.587 ratios=1x1,1.4x0.7,0.7x1.4"
    assert "in each level" in describe(LEVELS)


def test_what_the_user_leaves_out_is_the_models_own():
    np.testing.assert_allclose(parse("ratios=1x1,1.4x0.7,0.7x1.4", own_scale=3.0), anchor_shapes(3.0))
    np.testing.assert_allclose(parse("scales=1,2", own_scale=4.0), anchor_shapes(4.0, ASPECTS, [1, 2]))
    np.testing.assert_allclose(parse("base=5", own_scale=4.0), anchor_shapes(5.0))
    np.testing.assert_allclose(parse("scales=1 ratios=4,0.25", own_scale=1.0), [[2, 0.5], [0.5, 2]])  # width / height


def test_zylo117s_project_file_is_read(tmp_path):
    """projects/shape.yml of Yet-Another-EfficientDet-Pytorch, with other ratios."""
    path = tmp_path / "shape.yml"
    path.write_text(
        "project_name: shape\nmean: [0.485, 0.456, 0.406]\n"
        "# this is coco anchors, change it if necessary\n"
        "anchors_scales: '[2 ** 0, 2 ** (1.0 / 3.0), 2 ** (2.0 / 3.0)]'\n"
        "anchors_ratios: '[(1.0, 1.0), (1.3, 0.8), (1.9, 0.5)]'  # mine\n"
    )
    np.testing.assert_allclose(parse(str(path), own_scale=4.0), anchor_shapes(4.0, [(1, 1), (1.3, 0.8), (1.9, 0.5)]))


@pytest.mark.parametrize(
    "text",
    [
        "", "anchors", "ratios=", "ratios=1y2", "ratios=1x2x3", "base=big", "base=0", "base=-1", "scales=0", "scale=4",
        "ratios=__import__('os')", "scales=2**1e9", "nowhere.yml",
    ],
)  # fmt: skip
def test_other_words_are_refused_with_an_example(text):
    with pytest.raises(UserError) as caught:
        parse(text, own_scale=4.0)
    assert "nowhere.yml" in str(caught.value) or "ratios=1x1,1.4x0.7" in str(caught.value)


def test_effdets_and_zylo117s_entries_are_read():
    np.testing.assert_allclose(of_config(4.0, [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]], 3, 9.0, 5), anchor_shapes(4.0))
    assert of_config(None, [1.0, 2.0, 0.5], None, 4.0, 5)[1] == pytest.approx([4 * 2**0.5, 4 / 2**0.5])
    np.testing.assert_allclose(of_config([4, 4, 5, 5, 6], None, None, 9.0, 5), LEVELS)
    text = "[2 ** 0, 2 ** (1.0 / 3.0), 2 ** (2.0 / 3.0)]"
    np.testing.assert_allclose(of_config(None, None, text, 4.0, 5), anchor_shapes(4.0))
    assert of_config(None, None, None, 4.0, 5) is None
    assert of_config(None, "open('x')", None, 4.0, 5) is None


@pytest.mark.parametrize("scales", [4_000_000_000, 0, -3, "[99 ** 99 ** 99]", "[" * 5000, "[2 ** 1e308]"])
def test_scales_that_no_memory_holds_are_none(scales):
    assert of_config(None, None, scales, 4.0, 5) is None
