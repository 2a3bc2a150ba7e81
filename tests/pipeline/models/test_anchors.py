"""Anchors and the box code, worked by hand."""

import math

import numpy as np
import pytest

from effedge.pipeline.models.anchors import (
    ANCHORS_PER_CELL,
    EXACT_ASPECTS,
    anchor_shapes,
    decode,
    encode,
    level_sizes,
    make_anchors,
    place_anchors,
)


def test_levels_are_halved_and_rounded_up():
    assert level_sizes((512, 512), 5) == [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]
    assert level_sizes((320, 320), 5) == [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)]
    assert level_sizes((384, 640), 6) == [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]


def test_d0_has_49104_anchors():
    anchors = make_anchors((512, 512), 5, 4.0)
    assert anchors.shape == (49104, 4) and anchors.dtype == np.float32
    assert ANCHORS_PER_CELL == 9


def test_the_first_cells_anchors_are_those_worked_by_hand():
    # Stride 8, so the centre is (4, 4) and the base 4 x 8 = 32 pixels; aspects 1, 2, 1/2 with nearly one area.
    first = make_anchors((512, 512), 5, 4.0)[:9]
    np.testing.assert_allclose(first[0], [-12, -12, 20, 20])
    np.testing.assert_allclose(first[1], [4 - 22.4, 4 - 11.2, 4 + 22.4, 4 + 11.2], rtol=1e-6)
    np.testing.assert_allclose(first[2], [4 - 11.2, 4 - 22.4, 4 + 11.2, 4 + 22.4], rtol=1e-6)
    for octave in (1, 2):
        half = 16 * 2 ** (octave / 3)
        np.testing.assert_allclose(first[3 * octave], [4 - half, 4 - half, 4 + half, 4 + half], rtol=1e-6)


def test_the_order_is_level_row_column_anchor():
    anchors = make_anchors((128, 256), 5, 4.0)
    cells = anchors[::9]  # the square ones of the smallest scale
    centres = (cells[:, :2] + cells[:, 2:]) / 2
    columns = 256 // 8
    np.testing.assert_allclose(centres[:3], [[4, 4], [12, 4], [20, 4]])
    np.testing.assert_allclose(centres[columns], [4, 12])  # the next row
    np.testing.assert_allclose(centres[columns * 16], [8, 8])  # the next level, stride 16
    np.testing.assert_allclose(cells[columns * 16, 2] - cells[columns * 16, 0], 64)


def test_an_input_that_the_strides_do_not_divide_is_covered_evenly():
    # 320 at P7: three cells of 106.67 pixels, centred at 53.33, 160 and 266.67.
    anchors = make_anchors((320, 320), 5, 3.0)
    assert len(anchors) == 9 * (40**2 + 20**2 + 10**2 + 5**2 + 3**2)
    last = anchors[-9 * 9 :][::9]
    np.testing.assert_allclose((last[:3, 0] + last[:3, 2]) / 2, [320 / 6, 160, 320 * 5 / 6], rtol=1e-6)
    np.testing.assert_allclose((last[::3, 1] + last[::3, 3]) / 2, [320 / 6, 160, 320 * 5 / 6], rtol=1e-6)
    np.testing.assert_allclose(last[0, 2] - last[0, 0], 3 * 320 / 3, rtol=1e-6)


def test_a_box_code_worked_by_hand():
    anchor = np.float32([[0, 0, 10, 20]])  # 10 wide, 20 high, centre (5, 10)
    moved = np.float32([[5, 10, 15, 30]])  # centre (10, 20): half its width right, half its height down
    np.testing.assert_allclose(encode(moved, anchor), [[0.5, 0.5, 0, 0]], atol=1e-6)
    wide = np.float32([[-5, 5, 15, 15]])  # 20 wide, 10 high, same centre
    np.testing.assert_allclose(encode(wide, anchor), [[0, 0, math.log(0.5), math.log(2)]], atol=1e-6)
    right = np.float32([[3, 0, 13, 20]])
    np.testing.assert_allclose(encode(right, anchor), [[0, 0.3, 0, 0]], atol=1e-6)  # y before x
    np.testing.assert_allclose(decode(np.float32([[0, 0.3, 0, 0]]), anchor), right, atol=1e-6)


@pytest.mark.parametrize("size", [(256, 256), (320, 192)])
def test_decode_is_the_inverse_of_encode(size):
    random = np.random.default_rng(0)
    anchors = make_anchors(size, 5, 4.0)
    corners = random.uniform(0, size[0], (len(anchors), 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1) + 1], axis=1).astype(np.float32)
    np.testing.assert_allclose(decode(encode(boxes, anchors), anchors), boxes, atol=1e-2)


def test_no_code_leaves_the_anchor_as_it_is():
    anchors = make_anchors((128, 128), 5, 4.0)
    np.testing.assert_allclose(decode(np.zeros_like(anchors), anchors), anchors, atol=1e-3)


def test_a_box_without_extent_has_a_finite_code():
    assert np.isfinite(encode(np.float32([[5, 5, 5, 5]]), np.float32([[0, 0, 10, 10]]))).all()


def test_custom_anchors_are_effdets():
    """effdet 0.4.1's own numbers of Anchors(3, 7, 2, [(1, 1), (1.9, 0.5), 2.0], 3.0, (256, 384)), yxyx."""
    root = math.sqrt(2)
    shapes = anchor_shapes(3.0, [(1, 1), (1.9, 0.5), (root, 1 / root)], [1, root])
    anchors = place_anchors((256, 384), 5, shapes)[:, [1, 0, 3, 2]]
    assert anchors.shape == (12276, 4)
    np.testing.assert_allclose(anchors[[0, 1]], [[-8, -8, 16, 16], [-2, -18.8, 10, 26.8]], rtol=1e-6)
    np.testing.assert_allclose(anchors[[5, -1]], [[-8, -20, 16, 28], [0, -64, 384, 704]], atol=1e-4)
    sums = [1381039.2122, 1985036.0641, 1761616.7875, 2728947.9343]
    np.testing.assert_allclose(anchors.sum(0, np.float64), sums, rtol=1e-7)


def test_exact_aspects_are_effdets():
    """effdet 0.4.1's boxes of efficientdetv2_dt at 160 x 224, aspect_ratios [1.0, 2.0, 0.5], yxyx."""
    anchors = make_anchors((160, 224), 5, 4.0, EXACT_ASPECTS)[:, [1, 0, 3, 2]]
    assert len(anchors) == 6759
    expected = [[-7.313708, -18.627417, 15.313708, 26.627417], [-24.508759, -10.254379, 32.508759, 18.254379],
                [-239.187851, -83.431496, 479.187866, 419.431488]]  # fmt: skip
    np.testing.assert_allclose(anchors[[1, 5, -1]], expected, rtol=1e-6)


def test_levels_may_have_anchors_of_their_own():
    """effdet 0.4.1's own sums with anchor_scale=[4, 4, 5, 5, 6] at 320."""
    shapes = np.stack([anchor_shapes(scale) for scale in (4, 4, 5, 5, 6)])
    anchors = place_anchors((320, 320), 5, shapes)
    sums = [2437505.5170, 2437505.5170, 3708414.4697, 3708414.4697]
    np.testing.assert_allclose(anchors.sum(0, np.float64), sums, rtol=1e-7)
