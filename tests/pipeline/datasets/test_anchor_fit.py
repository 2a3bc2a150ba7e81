"""Checks the fit of anchors: against every anchor one by one, and against shapes that fit by construction."""

import numpy as np
import pytest

from effedge.deploy.image.iou import iou_matrix
from effedge.pipeline.datasets.anchor_fit import (
    Anchors,
    best_overlaps,
    class_balanced_mean,
    cluster_aspects,
    suggest_anchors,
)
from effedge.pipeline.models.anchors import make_anchors
from effedge.pipeline.models.tables import Size


def boxes_of(random, count, width, height, size):
    x, y = random.uniform(0, size - width, count), random.uniform(0, size - height, count)
    return np.stack([x, y, x + width, y + height], axis=1)


@pytest.mark.parametrize(
    ("size", "levels", "scale"), [((128, 128), 5, 3.0), ((320, 192), 5, 4.0), ((256, 256), 6, 4.0)]
)
def test_the_best_overlap_is_that_of_the_best_of_all_anchors(size, levels, scale):
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(0, size[::-1], (200, 2, 2)), axis=1) + [[[0, 0]], [[0.5, 0.5]]] * 100
    boxes = corners.reshape(-1, 4)
    expected = iou_matrix(boxes, make_anchors(size, levels, scale)).max(axis=1)
    np.testing.assert_allclose(best_overlaps(boxes, Anchors(Size(*size), levels, scale)), expected, atol=1e-5)


def test_clusters_find_the_ratios_that_the_boxes_were_made_with():
    random = np.random.default_rng(1)
    boxes = np.concatenate([boxes_of(random, 50, w, h, 300) for w, h in ((30, 30), (20, 80), (90, 10))])
    aspects = cluster_aspects(boxes)
    assert [w / h for w, h in aspects] == pytest.approx([1.0, 0.25, 9.0], rel=0.05)
    assert [w * h for w, h in aspects] == pytest.approx([1.0] * 3, rel=0.02)


def test_what_is_suggested_fits_better_and_matches_no_fewer():
    random = np.random.default_rng(2)
    boxes = boxes_of(random, 300, 11, 60, 320)
    anchors, class_ids = Anchors(Size(320, 320), 5, 4.0), np.zeros(300, int)
    better = suggest_anchors(boxes, class_ids, anchors)
    before, after = best_overlaps(boxes, anchors), best_overlaps(boxes, better)
    assert after.mean() > before.mean() + 0.1 and (after >= 0.5).mean() >= (before >= 0.5).mean()
    assert better.aspects[0][0] / better.aspects[0][1] == pytest.approx(11 / 60, rel=0.05)


def test_many_large_objects_do_not_cost_the_few_small_ones_their_anchors():
    random = np.random.default_rng(3)
    boxes = np.concatenate([boxes_of(random, 500, 100, 100, 320), boxes_of(random, 20, 24, 24, 320)])
    class_ids = np.repeat([0, 1], [500, 20])
    anchors = Anchors(Size(320, 320), 5, 3.0)
    better = best_overlaps(boxes, suggest_anchors(boxes, class_ids, anchors))
    assert (better[500:] >= 0.5).mean() >= (best_overlaps(boxes, anchors)[500:] >= 0.5).mean() - 0.05


def test_classes_count_alike():
    assert class_balanced_mean(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 3])) == 0.5
