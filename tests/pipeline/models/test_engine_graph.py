"""The engine's contract against plain NumPy: the best candidates by brute force; normalization outside the model."""

import numpy as np
import pytest
import torch
from torch import nn

from effedge.pipeline.models.anchors import level_sizes, make_anchors
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.engine_graph import ClassifierGraph, DetectorGraph
from effedge.pipeline.models.tables import EFFICIENTDETS
from tests.pipeline.numpy_detector import MEAN, STD, assert_candidates, best_pairs, normalize, random_images
from tests.pipeline.synthetic_weights import fill

LEVELS, ANCHOR_SCALE = 5, 4.0


def filled(name, classes):
    model = create_model(name, classes).eval()
    model.load_state_dict(fill(model.state_dict()))
    return model


@pytest.fixture(scope="module")
def d0():
    return filled("d0", 7)


def anchors_of(size):
    return make_anchors(size, LEVELS, ANCHOR_SCALE)


def in_levels(flat, size):
    """[N,A,width] in the anchors' order -> per level [N,9*width,h,w], as heads give it."""
    levels, start = [], 0
    for height, width in level_sizes(size, LEVELS):
        part = flat[:, start : start + height * width * 9]
        levels.append(part.reshape(len(flat), height, width, -1).transpose(0, 3, 1, 2))
        start += height * width * 9
    assert start == flat.shape[1]
    return [torch.from_numpy(np.ascontiguousarray(level)) for level in levels]


class Heads(nn.Module):
    """Stands in for a model: answers with these class logits [N,A,C] and codes [N,A,4], whatever the image.

    The graph has its box head speak in half anchors, x before y; these codes are (ty, tx, th, tw) in anchors.
    """

    def __init__(self, logits, codes, size):
        super().__init__()
        half_anchors = codes[..., [1, 0, 3, 2]] * np.float32([2, 2, 1, 1])
        self.levels = in_levels(logits, size), in_levels(half_anchors, size)

    def forward(self, _):
        return self.levels


def made_of(d0, logits, codes, size):
    """Returns the graph's outputs for these outputs of the heads, as NumPy arrays."""
    graph = DetectorGraph(d0, MEAN, STD, size)
    graph.classes = logits.shape[2]
    graph.model = Heads(logits, codes, size)
    with torch.inference_mode():
        return [output.numpy() for output in graph(torch.zeros(len(logits), *size, 3, dtype=torch.uint8))]


def distinct(random, shape):
    """Logits of which no two of an image are equal, from -9 to 3."""
    count = int(np.prod(shape[1:]))
    return np.stack([random.permutation(np.linspace(-9, 3, count)) for _ in range(shape[0])]).reshape(shape)


@pytest.mark.parametrize(("classes", "size"), [(1, (128, 128)), (2, (160, 256)), (90, (128, 128))])
def test_candidates_are_exactly_the_best_pairs_of_all(d0, classes, size):
    random = np.random.default_rng(classes)
    count = len(anchors_of(size))
    logits = distinct(random, (2, count, classes)).astype(np.float32)
    codes = random.normal(0, 0.5, (2, count, 4)).astype(np.float32)
    boxes, scores, class_ids = made_of(d0, logits, codes, size)
    assert boxes.shape == (2, 1000, 4) and scores.shape == class_ids.shape == (2, 1000)
    assert (boxes.dtype, scores.dtype, class_ids.dtype) == (np.float32, np.float32, np.int32)
    for index in range(2):
        expected = best_pairs(logits[index], codes[index], anchors_of(size), 1000)
        np.testing.assert_allclose(boxes[index], expected[0], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(scores[index], expected[1], rtol=1e-5)
        np.testing.assert_array_equal(class_ids[index], expected[2])


def test_one_anchor_can_fill_many_candidates(d0):
    # Ten anchors hold the best 900 pairs; a selection of one class per anchor would miss 890 of them.
    size, random = (128, 128), np.random.default_rng(0)
    count = len(anchors_of(size))
    logits = distinct(random, (1, count, 90)) - 20
    chosen = random.choice(count, 10, replace=False)
    logits[0, chosen] += 20
    logits = logits.astype(np.float32)
    codes = random.normal(0, 0.5, (1, count, 4)).astype(np.float32)
    boxes, scores, classes = made_of(d0, logits, codes, size)
    expected = best_pairs(logits[0], codes[0], anchors_of(size), 1000)
    np.testing.assert_allclose(boxes[0], expected[0], rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(classes[0], expected[2])
    assert len(np.unique(boxes[0, :900].round(2), axis=0)) == 10


def test_a_small_input_has_as_many_candidates_as_anchors(d0):
    size, random = (64, 64), np.random.default_rng(0)
    count = len(anchors_of(size))
    assert count < 1000
    logits = distinct(random, (1, count, 3)).astype(np.float32)
    codes = np.zeros((1, count, 4), np.float32)
    boxes, scores, classes = made_of(d0, logits, codes, size)
    expected = best_pairs(logits[0], codes[0], anchors_of(size), count)
    np.testing.assert_array_equal(classes[0], expected[2])
    np.testing.assert_allclose(boxes[0], expected[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 80, 90, 91, 365, 1203])
def test_anchor_and_class_are_told_apart_for_every_number_of_classes(d0, classes):
    # Each anchor's best class is the first or the last one in turn: the pairs on either side of every quotient.
    size, random = (128, 128), np.random.default_rng(0)
    count = len(anchors_of(size))
    logits = np.full((1, count, classes), -30, np.float32)
    best = np.where(np.arange(count) % 2, 0, classes - 1)
    logits[0, np.arange(count), best] = random.permutation(np.linspace(-3, 3, count))
    codes = np.zeros((1, count, 4), np.float32)
    boxes, _, class_ids = made_of(d0, logits, codes, size)
    expected = best_pairs(logits[0], codes[0], anchors_of(size), 1000)
    np.testing.assert_array_equal(class_ids[0], expected[2])
    np.testing.assert_allclose(boxes[0], expected[0], rtol=1e-5, atol=1e-3)


def test_a_wild_box_is_bounded(d0):
    # exp(100) is no float32: the box is 62.5 times its anchor, and no infinity.
    size, count = (128, 128), len(anchors_of((128, 128)))
    logits = distinct(np.random.default_rng(0), (1, count, 1)).astype(np.float32)
    codes = np.full((1, count, 4), 100, np.float32) * np.float32([0, 0, 1, 1])
    boxes, _, _ = made_of(d0, logits, codes, size)
    expected, _, _ = best_pairs(logits[0], codes[0], anchors_of(size), 1000)
    assert np.isfinite(boxes).all()
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-5, atol=1e-1)


@torch.inference_mode()
def test_the_detector_is_the_model_on_normalized_images(d0):
    size, images = 160, random_images(2, 160)
    outputs = [output.numpy() for output in DetectorGraph(d0, MEAN, STD, (size, size))(torch.from_numpy(images))]
    assert_candidates(outputs, *d0(normalize(images).float()), EFFICIENTDETS["d0"], 7, size)


@torch.inference_mode()
def test_the_classifier_is_the_model_on_normalized_images():
    model, images = filled("b0", 10), random_images(2, 96)
    expected = model(normalize(images).float()).numpy()
    logits = ClassifierGraph(model, MEAN, STD)(torch.from_numpy(images)).numpy()
    assert logits.shape == (2, 10)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.ptp(expected))


@torch.inference_mode()
@pytest.mark.parametrize("size", [32, 33])
def test_normalization_is_exact_in_the_border_too(size):
    # SAME padding is zero in normalized pixels: a mean that were folded into a bias would be wrong along the edges.
    model, images = filled("lite0", 10), random_images(1, size)
    graph = ClassifierGraph(model, MEAN, STD)
    expected = model.conv_stem.double()(normalize(images)).numpy()
    stem = graph.model.conv_stem(graph.normalized(torch.from_numpy(images))).numpy()
    for edge in (np.s_[..., -1, :], np.s_[..., :, -1], np.s_[..., 0, :], np.s_[..., :, 0], np.s_[...]):
        np.testing.assert_allclose(stem[edge], expected[edge], atol=1e-5)


def test_the_model_that_is_given_stays_as_it_is(d0):
    before = {key: value.clone() for key, value in d0.state_dict().items()}
    DetectorGraph(d0, MEAN, STD, (128, 128))
    assert all(torch.equal(value, before[key]) for key, value in d0.state_dict().items())


def test_published_detectors_have_a_thousand_candidates(d0):
    assert DetectorGraph(d0, MEAN, STD, (128, 128)).candidates == 1000
    assert min(row.size for row in EFFICIENTDETS.values()) >= 128
