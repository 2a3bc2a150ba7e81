"""Tests the comparison of expected and predicted results, with records written by hand, and of all outputs."""

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.preprocess import preparation
from effedge.engines.build import make_engine
from effedge.engines.comparison.inputs import image_batch
from effedge.engines.comparison.reference import Reference
from effedge.engines.selftest import compare, compare_outputs
from effedge.engines.targets import TARGETS
from tests.engines import graphs


def box(x0=0, y0=0, x1=100, y1=100, score=0.9, class_id=1):
    return {"box": [x0, y0, x1, y1], "score": score, "class_id": class_id, "label": str(class_id)}


def detections(*rows):
    return {"detections": list(rows)}


def test_the_same_is_the_same():
    outcome = compare(detections(box(), box(class_id=2)), detections(box(class_id=2), box()), "fp32")
    assert outcome == (2, 1.0, 0.0, [])


def test_the_worst_pair_is_reported():
    outcome = compare(detections(box(), box(class_id=2)), detections(box(x1=95, score=0.85), box(class_id=2)), "int8")
    assert outcome.expected == 2 and outcome.problems == []
    assert (outcome.iou, outcome.score) == pytest.approx((0.95, 0.05))


@pytest.mark.parametrize(
    ("expected", "found", "problem"),
    [
        ([box()], [], "'1' (0.90) at [0, 0, 100, 100] was not found"),
        ([], [box()], "was not expected"),
        ([box()], [box(class_id=2)], "was not found"),
        ([box()], [box(x1=80)], "was not found; nearest at IoU 0.800"),
        ([box(score=0.9)], [box(score=0.75)], "scores 0.9 and 0.75"),
    ],
)
def test_what_does_not_agree_is_named(expected, found, problem):
    problems = compare(detections(*expected), detections(*found), "int8").problems
    assert problem in problems[0]


def test_what_is_not_sure_need_not_be_found_but_may():
    assert not compare(detections(box(score=0.29)), detections(), "int8").problems
    assert not compare(detections(box(score=0.32)), detections(box(score=0.25)), "int8").problems


def test_fp32_is_held_to_less():
    assert compare(detections(box()), detections(box(x1=95)), "fp32").problems


def classes(*scores):
    return {"classes": [{"class_id": k, "label": f"c{k}", "score": s} for k, s in scores]}


def test_the_best_class_of_each_must_be_likely_in_the_other():
    assert compare(classes((3, 0.9), (1, 0.1)), classes((3, 0.85), (1, 0.1)), "int8").problems == []
    # A tie that falls the other way is no error.
    assert compare(classes((3, 0.5), (1, 0.48)), classes((1, 0.5), (3, 0.48)), "int8").problems == []
    assert "'c3': probabilities 0.9 and 0.6" in compare(classes((3, 0.9)), classes((3, 0.6)), "int8").problems
    problems = compare(classes((3, 0.9)), classes((4, 0.9)), "int8").problems
    assert problems == ["'c3' (0.90) was not found", "'c4' (0.90) was not expected"]


def test_every_output_is_compared_whatever_its_score(prepared, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image, expected = tmp_path / "image.png", tmp_path / "outputs.npz"
    Image.fromarray(pixels).save(image)
    make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=TARGETS["cpu-ort"])
    feeds = image_batch(preparation(graphs.spec()["input"])(pixels).pixels, graphs.spec())
    outputs = Reference(prepared("f32"), prepared("f32")).run(feeds)
    np.savez(expected, **outputs)
    assert compare_outputs(tmp_path / "engine", image, expected, "fp32") > 90
    np.savez(expected, logits=outputs["logits"] / 1.1)
    assert compare_outputs(tmp_path / "engine", image, expected, "int8") == pytest.approx(20, abs=0.1)
    with pytest.raises(UserError, match=r"output 'logits' of the engine is \d+ dB from the reference's .*30 or more"):
        compare_outputs(tmp_path / "engine", image, expected, "fp32")
    np.savez(expected, logits=outputs["logits"][..., ::-1])
    with pytest.raises(UserError, match="do not use it"):
        compare_outputs(tmp_path / "engine", image, expected, "int8")
