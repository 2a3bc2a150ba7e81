"""Focal, Huber and GIoU loss against their formulas, and where each target goes."""

import math

import numpy as np
import pytest
import torch

from effedge.pipeline.models.anchors import decode, make_anchors
from effedge.pipeline.models.heads import flatten_levels
from effedge.pipeline.training.losses import DetectionTargets, detection_loss, focal_loss, giou_loss, huber_loss


def focal(p, target, alpha=0.25, gamma=1.5):
    """Lin et al. 2017, equation 5, for one probability."""
    p_t, alpha_t = (p, alpha) if target else (1 - p, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


def huber(error, delta=0.1):
    return 0.5 * error**2 if abs(error) <= delta else delta * (abs(error) - 0.5 * delta)


def test_focal_loss_is_its_formula():
    probabilities, targets = [0.9, 0.3, 0.01, 0.5, 0.7], [1, 1, 0, 0, 0]
    logits = torch.tensor([math.log(p / (1 - p)) for p in probabilities], dtype=torch.float64)
    expected = sum(focal(p, target) for p, target in zip(probabilities, targets, strict=True))
    assert focal_loss(logits, torch.tensor(targets).double()).item() == pytest.approx(expected, rel=1e-9)


def test_an_easy_example_weighs_far_less_than_a_hard_one():
    one = torch.ones(1)
    easy, hard = focal_loss(torch.tensor([4.0]), one).item(), focal_loss(torch.tensor([-4.0]), one).item()
    plain = math.log1p(math.exp(4.0)) / math.log1p(math.exp(-4.0))  # the ratio without focus
    assert hard / easy > 100 * plain


@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_loss_and_its_gradient_are_finite_for_any_logit(logit, target):
    logits = torch.tensor([logit], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([target]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_box_loss_is_the_huber_loss_averaged_over_the_four_numbers():
    errors = [[0.05, -0.1, 0.3, 0.0], [-2.0, 0.02, 0.0, 0.1]]
    targets = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = sum(huber(error) for row in errors for error in row) / 4
    assert huber_loss(targets + torch.tensor(errors), targets).item() == pytest.approx(expected, rel=1e-6)


def giou(box, other):
    """Rezatofighi et al. 2019, algorithm 1, of two boxes xyxy in pixels."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    intersection = max(width, 0) * max(height, 0)
    union = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (box, other)) - intersection
    hull = (max(box[2], other[2]) - min(box[0], other[0])) * (max(box[3], other[3]) - min(box[1], other[1]))
    return intersection / union - (hull - union) / hull


def test_giou_loss_is_one_less_the_giou_of_the_boxes_in_pixels():
    random = np.random.default_rng(0)
    anchors = make_anchors((128, 128), 5, 4.0)[random.integers(0, 3000, 40)]
    codes, targets = random.normal(0, 0.8, (2, 40, 4))  # some of the boxes do not touch
    boxes, wanted = decode(codes, anchors), decode(targets, anchors)
    found = [giou(*pair) for pair in zip(boxes, wanted, strict=True)]
    assert min(found) < -0.1 and max(found) > 0.3
    loss = giou_loss(torch.from_numpy(codes), torch.from_numpy(targets)).item()
    assert loss == pytest.approx(sum(1 - each for each in found), rel=1e-6)


def test_giou_loss_and_its_gradient_are_finite_for_any_code():
    codes = torch.tensor([[0.0, 0.0, 90.0, 90.0], [1e4, -1e4, -90.0, 3.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = giou_loss(codes, torch.zeros(3, 4))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(codes.grad).all() and giou_loss(codes[2:], codes[2:]).item() == 0


def test_flattened_heads_are_in_the_anchors_order():
    # Each output says which level, row, column, anchor and number it is.
    levels = []
    for level, (height, width) in enumerate([(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        maps = [level * 1e6 + y * 1e4 + x * 100 + anchor * 10 + number for anchor in range(9) for number in range(4)]
        levels.append(torch.stack(maps)[None])
    flat = flatten_levels(levels, 4)[0].numpy()
    anchors = make_anchors((128, 128), 5, 4.0)
    assert flat.shape == anchors.shape
    assert (flat[:, 0] % 10 == 0).all() and (flat[:, 3] % 10 == 3).all()
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    stride = 8 * 2 ** (flat[:, 0] // 1e6)
    row, column = flat[:, 0] // 1e4 % 100, flat[:, 0] // 100 % 100
    np.testing.assert_allclose(centres[:, 0], (column + 0.5) * stride, atol=1e-3)
    np.testing.assert_allclose(centres[:, 1], (row + 0.5) * stride, atol=1e-3)
    np.testing.assert_array_equal(flat[:, 0] // 10 % 10, np.tile(np.arange(9), len(flat) // 9))


def test_the_detection_loss_is_the_two_formulas_over_the_positives():
    # Two images, one level of 1 x 1: nine anchors each, three classes. Two positives.
    random = np.random.default_rng(0)
    logits, codes = random.normal(size=(2, 9, 3)), random.normal(size=(2, 9, 4))
    image_indices, anchor_indices, class_ids = [0, 1], [4, 8], [2, 0]
    wanted = random.normal(size=(2, 4))
    targets = np.zeros((2, 9, 3))
    targets[0, 4, 2] = targets[1, 8, 0] = 1
    p = 1 / (1 + np.exp(-logits))
    class_loss = sum(focal(x, t) for x, t in zip(p.ravel(), targets.ravel(), strict=True)) / 2
    errors = np.stack([codes[0, 4], codes[1, 8]]) - wanted
    box = 50 * sum(huber(error) for error in errors.ravel()) / 4 / 2
    given = (
        [torch.from_numpy(logits.reshape(2, 27, 1, 1))],
        [torch.from_numpy(codes.reshape(2, 36, 1, 1))],
        DetectionTargets(*map(torch.tensor, (image_indices, anchor_indices, class_ids)), torch.from_numpy(wanted)),
        3,
    )
    found = detection_loss(*given)
    assert [part.item() for part in found] == pytest.approx([class_loss, box], rel=1e-6)
    by_giou = detection_loss(*given, box_loss="giou")
    of_boxes = 2 * giou_loss(torch.from_numpy(np.stack([codes[0, 4], codes[1, 8]])), torch.from_numpy(wanted)) / 2
    assert [part.item() for part in by_giou] == pytest.approx([class_loss, of_boxes.item()], rel=1e-6)


def test_images_without_objects_teach_the_background():
    logits = torch.zeros(2, 27, 1, 1, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    targets = DetectionTargets(none, none, none, torch.zeros(0, 4))
    class_loss, boxes = detection_loss([logits], [torch.zeros(2, 36, 1, 1)], targets, 3)
    class_loss.backward()
    assert boxes.item() == 0 and class_loss.item() == pytest.approx(54 * focal(0.5, 0), rel=1e-6)
    assert (logits.grad > 0).all()
