"""The model tables: the sizes that the papers print, and the names and sizes that are refused."""

import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.tables import EFFICIENTDETS, MODELS, input_size, normalization

# The side of the input, as the papers and EfficientNet-Lite's release notes print it.
SIZES = {
    "b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600, "l2": 800,
    "lite0": 224, "lite1": 240, "lite2": 260, "lite3": 280, "lite4": 300,
    "d0": 512, "d1": 640, "d2": 768, "d3": 896, "d4": 1024, "d5": 1280, "d6": 1280, "d7": 1536, "d7x": 1536,
    "det-lite0": 320, "det-lite1": 384, "det-lite2": 448, "det-lite3": 512, "det-lite4": 640,
}  # fmt: skip


def test_all_29_published_models_are_there():
    classifiers = [*(f"b{index}" for index in range(9)), "l2", *(f"lite{index}" for index in range(5))]
    detectors = [*(f"d{index}" for index in range(8)), "d7x", *(f"det-lite{index}" for index in range(5))]
    assert sorted(MODELS) == sorted(classifiers + detectors)


@pytest.mark.parametrize("name", SIZES)
def test_the_input_size_is_that_of_the_papers(name):
    assert input_size(name) == SIZES[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_published_size_suits_its_model(name):
    assert input_size(name, SIZES.get(name, 672)) == input_size(name)  # B8's is in no paper's table


@pytest.mark.parametrize(("name", "size"), [("d0", 500), ("d0", 96), ("d0", 0), ("b0", 225), ("b0", 0), ("b0", -32)])
def test_a_size_that_does_not_suit_is_refused_with_those_that_do(name, size):
    with pytest.raises(UserError, match=f"size {size} does not suit {name}: expected a multiple of 32, "):
        input_size(name, size)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown model 'B0': did you mean 'b0'"):
        input_size("B0")


def test_only_d7x_has_a_level_more():
    assert EFFICIENTDETS["d7x"].levels == 6
    assert {row.levels for name, row in EFFICIENTDETS.items() if name != "d7x"} == {5}


def test_each_family_is_normalized_as_it_was_trained():
    # ImageNet's mean and standard deviation (torchvision prints them); Lite: (pixel - 127) / 128, about a half
    assert normalization("b3") == normalization("d3") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalization("lite2") == normalization("det-lite2") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
