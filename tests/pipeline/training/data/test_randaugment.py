"""RandAugment: each operation does what its name says, at the strength of its magnitude."""

import numpy as np
import pytest
from PIL import Image

from effedge.pipeline.training.data.operations import GREY, OPERATIONS
from effedge.pipeline.training.data.randaugment import STRENGTHS, randaugment


@pytest.fixture
def image():
    ramp = np.linspace(40, 200, 32).astype(np.uint8)
    return np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32)), np.full((32, 32), 90, np.uint8)], axis=2)


def apply(name, image, level):
    return np.asarray(OPERATIONS[name](Image.fromarray(image), STRENGTHS[name](level)))


def test_there_are_the_papers_fourteen():
    assert len(STRENGTHS) == 14 and set(STRENGTHS) == set(OPERATIONS) - {"invert"}


def test_at_level_zero_what_has_a_strength_changes_nothing(image):
    for name in set(STRENGTHS) - {"autocontrast", "equalize", "identity"}:
        np.testing.assert_array_equal(apply(name, image, 0.0), image, err_msg=name)
    np.testing.assert_array_equal(apply("identity", image, 1.0), image)


def test_the_ends_of_the_ranges(image):
    moved = apply("translate x", image, 1.0)
    shift = round(150 / 331 * 32)
    assert (moved[:, -shift + 1 :] == GREY).all()
    np.testing.assert_allclose(moved[:, : 32 - shift - 1, 0].astype(int), image[:, shift:-1, 0], atol=4)
    np.testing.assert_array_equal(apply("solarize", image, 1.0), 255 - image)
    assert set(np.unique(apply("posterize", image, -1.0) & 0x0F)) == {0}
    np.testing.assert_allclose(apply("brightness", image, 1.0), np.minimum(image * 1.9, 255), atol=1)
    np.testing.assert_allclose(apply("brightness", image, -1.0), image * 0.1, atol=1)
    grey = apply("colour", image, -1.0).astype(int)
    assert np.ptp(grey, axis=2).max() < 0.15 * np.ptp(image.astype(int), axis=2).max()
    sheared = apply("shear x", image, 1.0)
    np.testing.assert_array_equal(sheared[0], image[0])
    np.testing.assert_allclose(sheared[20, :20, 0].astype(int), image[20, 6:26, 0], atol=4)
    turned = Image.fromarray(image).rotate(30, Image.Resampling.BILINEAR, fillcolor=GREY)
    np.testing.assert_array_equal(apply("rotate", image, 1.0), np.asarray(turned))


def test_beyond_the_range_nothing_breaks_and_a_seed_repeats(image):
    for seed in range(60):
        once, again = (randaugment(np.random.default_rng(seed), image, 3, 28) for _ in range(2))
        assert once.shape == image.shape and once.dtype == np.uint8
        np.testing.assert_array_equal(once, again)
    assert len({randaugment(np.random.default_rng(seed), image, 1, 9).tobytes() for seed in range(60)}) > 12
