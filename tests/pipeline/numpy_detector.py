"""Computes an engine's outputs in plain NumPy: normalization, and candidates by brute force."""

import numpy as np
import torch

from effedge.pipeline.models.anchors import decode, make_anchors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_STRETCH = 62.5  # a box's side over its anchor's


def random_images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalize(images, mean=MEAN, std=STD):
    """Normalizes uint8 [N,H,W,3] to (x / 255 - mean) / std, [N,3,H,W] in float64."""
    scaled = (images / 255.0 - np.array(mean)) / np.array(std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2))


def in_rows(levels, width):
    """Concatenates heads' outputs per level to [N,A,width] in the anchors' order."""
    rows = [level.permute(0, 2, 3, 1).numpy().reshape(len(level), -1, width) for level in levels]
    return np.concatenate(rows, axis=1)


def best_pairs(logits, codes, anchors, count):
    """Returns (boxes, scores, classes) of an image's `count` best (anchor, class) pairs, by sorting all pairs."""
    order = np.argsort(-logits, axis=None, kind="stable")[:count]
    anchor, classes = np.unravel_index(order, logits.shape)
    bounded = np.concatenate([codes[:, :2], np.minimum(codes[:, 2:], np.log(LARGEST_STRETCH))], axis=1)
    boxes = decode(bounded, anchors)[anchor]
    return boxes, 1 / (1 + np.exp(-logits.astype(np.float64)[anchor, classes])), classes


def assert_candidates(outputs, class_levels, box_levels, row, classes, size):
    """Asserts that an engine's outputs (boxes, scores, classes) of a batch are the best of the plain model's heads.

    The tolerance is 1e-4 of an output's range. Candidates that lie closer together than that may change places, so they
    are compared as a set: every candidate that is clear of the last score must be in it.
    """
    anchors = make_anchors((size, size), row.levels, row.anchor_scale, row.aspects)
    for index, (boxes, scores, class_ids) in enumerate(zip(*outputs, strict=True)):
        logits, codes = in_rows(class_levels, classes)[index], in_rows(box_levels, 4)[index]
        expected_boxes, expected_scores, expected_classes = best_pairs(logits, codes, anchors, len(scores))
        close = 1e-4 * np.ptp(expected_scores)
        np.testing.assert_allclose(scores, expected_scores, atol=close, rtol=0)
        assert np.diff(scores).max() <= 1e-6  # falling, but for the last bits of ONNX Runtime's sigmoid
        clear = np.flatnonzero(expected_scores > expected_scores[-1] + close)
        assert len(clear) > 100
        for candidate in clear:
            near = np.abs(boxes - expected_boxes[candidate]).max(axis=1) <= 1e-4 * np.ptp(expected_boxes)
            near &= np.abs(scores - expected_scores[candidate]) <= close
            assert (near & (class_ids == expected_classes[candidate])).any(), candidate
