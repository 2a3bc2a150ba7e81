"""Anchor matching, by hand: positive at IoU 0.5 or by S3FD's two stages, and no object without an anchor."""

import numpy as np
import pytest

from effedge.deploy.image.iou import iou_matrix
from effedge.pipeline.models.anchors import decode, make_anchors
from effedge.pipeline.training.matching import match

ANCHORS = np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])


def test_an_anchor_is_positive_from_an_iou_of_one_half_on():
    # The object's best anchor is its own; the second has an IoU of exactly 0.5 with it, the third one below.
    anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9]])
    found = match(np.float32([[0, 0, 10, 10]]), np.array([3]), anchors)
    assert found.anchors.tolist() == [0, 1] and found.class_ids.tolist() == [3, 3]


def test_an_object_without_a_good_anchor_takes_its_best_one():
    small = np.float32([[42, 2, 45, 5]])  # IoU 0.09
    found = match(small, np.array([1]), ANCHORS)
    assert found.anchors.tolist() == [2]


def test_an_anchor_learns_the_object_that_it_overlaps_most():
    boxes = np.float32([[0, 0, 10, 6], [0, 0, 10, 8]])  # IoU 0.6 and 0.8 with the first anchor
    anchors = np.concatenate([ANCHORS, np.float32([[0, 0, 10, 6]])])  # of its own for the first object
    found = match(boxes, np.array([5, 6]), anchors)
    assert dict(zip(found.anchors.tolist(), found.class_ids.tolist(), strict=True)) == {0: 6, 4: 5}


def test_a_best_anchor_is_kept_from_an_object_that_overlaps_it_more():
    # Both overlap the first anchor most; the small one has no other, so the first anchor is no other object's.
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 2, 2]])
    found = match(boxes, np.array([1, 2]), np.float32([[0, 0, 10, 10], [0, 0, 10, 9], [30, 0, 40, 10]]))
    owners = dict(zip(found.anchors.tolist(), found.class_ids.tolist(), strict=True))
    assert owners[1] == 2 and owners[0] == 1


def test_an_image_without_objects_has_no_positive_anchor():
    found = match(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), ANCHORS)
    assert [len(part) for part in found] == [0, 0, 0] and found.codes.shape == (0, 4)


@pytest.mark.parametrize("seed", range(3))
def test_every_object_is_learned_and_codes_lead_back_to_it(seed):
    random = np.random.default_rng(seed)
    anchors = make_anchors((256, 256), 5, 4.0)
    boxes = []
    while len(boxes) < 8:  # objects that do not touch, so that none takes another's best anchor
        side, corner = random.uniform(8, 90), random.uniform(0, 160, 2)
        box = np.float32([*corner, *(corner + side)])
        if not boxes or iou_matrix(box[None], np.array(boxes)).max() == 0:
            boxes.append(box)
    boxes, class_ids = np.array(boxes), np.arange(8)
    found = match(boxes, class_ids, anchors)
    assert set(found.class_ids.tolist()) == set(range(8))
    np.testing.assert_allclose(decode(found.codes, anchors[found.anchors]), boxes[found.class_ids], atol=1e-2)
    # brute force: which anchors reach one half with any object
    overlaps = iou_matrix(boxes, anchors)
    assert set(np.flatnonzero(overlaps.max(0) >= 0.5)) | set(overlaps.argmax(1)) == set(found.anchors.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_compensated_matching_tops_objects_up_to_twenty_anchors(seed):
    random = np.random.default_rng(seed)
    sides, corners = random.uniform(9, 90, (7, 2)), random.uniform(0, 160, (7, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    anchors = make_anchors((256, 256), 5, 4.0)
    found = match(boxes, np.arange(7), anchors, "compensated")
    overlaps = iou_matrix(boxes, anchors)
    best, owners = np.zeros(len(anchors)), {}  # S3FD's two stages, object by object and anchor by anchor
    for number, row in enumerate(overlaps):
        taken = [anchor for anchor, iou in enumerate(row) if iou >= 0.5]
        if len(taken) < 20:
            twentieth = sorted(row.tolist())[-20]
            taken = [anchor for anchor, iou in enumerate(row) if iou >= twentieth and iou > 0.1]
        for anchor in taken:
            if row[anchor] > best[anchor]:
                best[anchor], owners[anchor] = row[anchor], number
    owners.update({int(row.argmax()): number for number, row in enumerate(overlaps)})
    assert dict(zip(found.anchors.tolist(), found.class_ids.tolist(), strict=True)) == owners
    np.testing.assert_allclose(decode(found.codes, anchors[found.anchors]), boxes[found.class_ids], atol=1e-2)


def test_a_small_object_is_learned_by_several_anchors_and_none_by_an_anchor_that_hardly_touches_it():
    box, tiny = np.float32([[100, 100, 112, 114]]), np.float32([[100, 100, 104, 104]])
    anchors = make_anchors((256, 256), 5, 4.0)
    assert len(match(box, np.array([1]), anchors).anchors) == 1
    found = match(box, np.array([1]), anchors, "compensated")
    assert len(found.anchors) >= 5 and iou_matrix(box, anchors)[0, found.anchors].min() > 0.1
    assert len(match(tiny, np.array([1]), anchors, "compensated").anchors) == 1
    none = match(box[:0], np.zeros(0, np.int64), anchors, "compensated")
    assert [len(part) for part in none] == [0, 0, 0]
