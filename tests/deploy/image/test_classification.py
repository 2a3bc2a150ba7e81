"""A classification as a value, as the detections."""

import copy
import json

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.classification import Classification, ClassScore
from effedge.deploy.image.draw import class_colour


@pytest.fixture
def best():
    return Classification([7, 1, 0], ["seven", "one", "zero"], [0.9, 0.06, 0.01])


def test_one_is_a_named_tuple_and_several_a_classification(best):
    assert best[0] == ClassScore(7, "seven", pytest.approx(0.9)) and type(best[0].score) is float
    assert len(best) == 3 and best[:2].labels == ["seven", "one"]
    assert best[best.scores < 0.5] == best[1:] and best[[0, 2]].classes.tolist() == [7, 0]
    assert [label for class_id, label, score in best] == ["seven", "one", "zero"]
    with pytest.raises(IndexError):
        best[3]
    with pytest.raises(UserError, match="as many of each"):
        Classification([1], ["a", "b"], [0.5])


def test_equality_and_text(best):
    assert best == copy.deepcopy(best) != best[:2]
    assert repr(best) == "seven 0.90, one 0.06, zero 0.01"
    record = json.loads(json.dumps(best[:1].to_dict()))
    assert record == {"classes": [{"class_id": 7, "label": "seven", "score": 0.9}]}


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (60, 60), (300, 400), (2000, 1000)])
def test_the_classes_are_drawn_below_each_other_in_the_corner(best, size):
    image = np.zeros((*size, 3), np.uint8)
    drawn = np.asarray(best.draw(image))
    assert drawn.shape == image.shape and (image == 0).all()
    rows = [np.flatnonzero((drawn == class_colour(class_id)).all(axis=2).any(axis=1)) for class_id in (7, 1, 0)]
    if min(size) >= 300:
        assert rows[0][0] == 0 and all(len(found) > 8 for found in rows)
        assert rows[0][-1] < rows[1][0] and rows[1][-1] < rows[2][0]
    assert (drawn[size[0] // 2 + 30 :] == 0).all() or size[0] < 300
