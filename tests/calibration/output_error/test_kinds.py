"""Tests the recognition of the outputs of a model that says nothing of them: on outputs made by hand, like those of the
detectors that their names say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from effedge.calibration.graph import onnx_file
from effedge.calibration.output_error.kinds import Choice, choose_judges
from effedge.calibration.output_error.measure import (
    Candidates,
    DetectionJudge,
    OutputError,
    detection_error,
    error_over_variance,
)
from effedge.deploy.common.cli import UserError
from tests.calibration import networks

Runs = list[list[np.ndarray]]
CLASSES, SAMPLES = 5, 8
DTYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


def model_of(arrays: Sequence[np.ndarray], names: Sequence[str] = ()) -> ir.Model:
    """A model whose outputs have these shapes and types, and that no operator makes."""
    net = networks.Network()
    for index, array in enumerate(arrays):
        name, dtype = names[index] if names else f"out{index}", DTYPES[array.dtype.name]
        shape: list[int | str] = list(array.shape)
        net.output(net.node("Identity", [net.input(f"{name}_in", shape, dtype)], name), shape, dtype)
    return onnx_file.prepare(ir.from_proto(net.proto()))


def choose(runs: Runs, size: tuple[int, int] | None = None, kinds: dict[str, str] | None = None) -> Choice:
    return choose_judges(model_of(runs[0]), runs, size, kinds)


def error(runs: Runs, got: Runs, size: tuple[int, int] | None = None, kinds: dict[str, str] | None = None) -> float:
    measure = OutputError(choose(runs, size, kinds).judges, runs)
    return float(np.mean([measure.of(index, outputs) for index, outputs in enumerate(got)]))


class Scene:
    """The detections of a detector on some samples, for 64x64 images: every cell of 8x8, 4x4 and 2x2 has a box near it
    and next to no score, but some cells of each sample are sure of a class.

    Attributes:
        boxes: [S,R,4] centres and sizes; scores: [S,R,C].
        corners, strides: of the cells [R,2] in pixels and [R].
    """

    def __init__(self, seed: int = 0, classes: int = CLASSES) -> None:
        random = np.random.default_rng(seed)
        cells = [
            (x * stride, y * stride, stride)
            for stride in (8, 16, 32)
            for y in range(64 // stride)
            for x in range(64 // stride)
        ]
        self.corners, self.strides = np.float32(cells)[:, :2], np.float32(cells)[:, 2]
        rows = len(cells)
        self.codes = np.concatenate(
            [random.uniform(0.2, 0.8, (SAMPLES, rows, 2)), random.normal(0, 0.4, (SAMPLES, rows, 2))], axis=2
        ).astype(np.float32)
        centres = (self.codes[..., :2] * self.strides[:, None]) + self.corners
        sizes = np.exp(self.codes[..., 2:]) * self.strides[:, None]
        self.boxes = np.concatenate([centres, sizes], axis=2).astype(np.float32)
        self.scores = random.uniform(0, 0.01, (SAMPLES, rows, classes)).astype(np.float32)
        self.objectness = random.uniform(0, 0.01, (SAMPLES, rows, 1)).astype(np.float32)
        for sample in range(SAMPLES):
            for row in random.choice(rows, 4, replace=False):
                self.scores[sample, row, random.integers(classes)] = random.uniform(0.5, 0.95)
                self.objectness[sample, row] = random.uniform(0.6, 0.95)

    @property
    def xyxy(self) -> np.ndarray:
        centres, sizes = self.boxes[..., :2], self.boxes[..., 2:]
        return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=2)

    def noisy(self, seed: int = 1) -> Scene:
        """The same scene after some noise on the codes and scores."""
        random = np.random.default_rng(seed)
        other = Scene.__new__(Scene)
        other.corners, other.strides = self.corners, self.strides
        other.codes = (self.codes + random.normal(0, 0.05, self.codes.shape)).astype(np.float32)
        centres = other.codes[..., :2] * self.strides[:, None] + self.corners
        other.boxes = np.concatenate([centres, np.exp(other.codes[..., 2:]) * self.strides[:, None]], axis=2)
        other.boxes = other.boxes.astype(np.float32)
        other.scores = (self.scores * random.uniform(0.7, 1, self.scores.shape)).astype(np.float32)
        other.objectness = self.objectness
        return other

    def as_candidates(self, sample: int, gated: bool) -> list[np.ndarray]:
        scores = self.scores[sample] * (self.objectness[sample] if gated else 1)
        return [self.xyxy[sample][None], scores.max(axis=1)[None], scores.argmax(axis=1)[None]]


def in_runs(*outputs: np.ndarray) -> Runs:
    """Outputs [S,...] as runs of batch 1."""
    return [[np.ascontiguousarray(output[sample][None]) for output in outputs] for sample in range(SAMPLES)]


def joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=2)


def with_background(scores: np.ndarray) -> np.ndarray:
    return joined(1 - scores.sum(axis=2, keepdims=True).clip(0, 1), scores)


# The outputs of a scene, and whether scores are multiplied by an objectness.
HEADS = {
    "YOLOv8": (lambda s: in_runs(joined(s.boxes, s.scores).transpose(0, 2, 1)), False),
    "YOLOv8 without a batch": (lambda s: [[run[0][0]] for run in in_runs(joined(s.boxes, s.scores))], False),
    "YOLOv5": (lambda s: in_runs(joined(s.boxes, s.objectness, s.scores)), True),
    "YOLOX": (lambda s: in_runs(joined(s.codes, s.objectness, s.scores)), True),
    "boxes and scores": (lambda s: in_runs(s.scores, s.xyxy), False),
    "boxes and scores in units of the image": (lambda s: in_runs(s.xyxy / 64, s.scores), False),
    "YOLOv4": (lambda s: in_runs(s.xyxy[:, :, None] / 64, s.scores), False),
    "scores with a background": (lambda s: in_runs(with_background(s.scores), s.boxes), False),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_dense_head_is_judged_as_detections(name: str) -> None:
    make, gated = HEADS[name]
    scene, noisy = Scene(), Scene().noisy()
    runs, got = make(scene), make(noisy)
    assert "detections after NMS" in ", ".join(choose(runs, (64, 64)).texts.values())
    candidates = [[each.as_candidates(sample, gated) for sample in range(SAMPLES)] for each in (scene, noisy)]
    own = [detection_error(each, [each[0], 0 * each[1], each[2]]) for each in candidates[0]]
    assert own == pytest.approx([1] * SAMPLES)
    wanted = OutputError([DetectionJudge("", lambda outputs: map(Candidates, *outputs))], candidates[0])
    expected = np.mean([wanted.of(sample, each) for sample, each in enumerate(candidates[1])])
    assert error(runs, got, (64, 64)) == pytest.approx(expected, rel=1e-3)
    assert error(runs, runs, (64, 64)) == pytest.approx(0, abs=1e-9)


def test_three_outputs_for_each_level_are_one_set_of_detections() -> None:
    """Boxes and scores of each level, as of a decoded SSD; the level without objects decides nothing."""
    scene, noisy = Scene(), Scene().noisy()
    levels = [scene.strides == stride for stride in (8, 16)]
    runs, got = (
        in_runs(*(array[:, level] for level in levels for array in (each.xyxy, each.scores))) for each in (scene, noisy)
    )
    choice = choose(runs)
    assert len(choice.judges) == 1 and set(choice.texts.values()) == {
        "boxes (corners), judged as detections after NMS", "scores, judged as detections after NMS"
    }  # fmt: skip
    both = levels[0] | levels[1]
    one = in_runs(joined(scene.xyxy, scene.scores)[:, both]), in_runs(joined(noisy.xyxy, noisy.scores)[:, both])
    assert error(runs, got) == pytest.approx(error(*one), rel=1e-6)


def test_positive_numbers_that_the_image_decides_are_no_boxes() -> None:
    """The distances to four sides, as FCOS has them."""
    random, scene = np.random.default_rng(3), Scene()
    distances = random.uniform(1, 30, scene.boxes.shape).astype(np.float32)
    texts = choose(in_runs(distances, scene.scores)).texts
    assert texts == {"out0": "values where there are scores", "out1": "scores"}


def test_the_first_class_is_no_objectness() -> None:
    scene = Scene()
    [text] = choose(in_runs(joined(scene.boxes, scene.scores))).texts.values()
    assert "objectness" not in text and "scores in columns 4 to 8" in text
    [text] = choose(in_runs(joined(scene.boxes, scene.objectness, scene.scores))).texts.values()
    assert "scores in columns 5 to 9 times the objectness in column 4" in text


def test_scores_of_random_weights_say_nothing_about_rows_and_make_no_detections() -> None:
    scene = Scene()
    scores = np.random.default_rng(0).uniform(0.4, 0.6, scene.scores.shape).astype(np.float32)
    assert choose(in_runs(joined(scene.boxes, scores))).texts == {
        "out0": "values in columns 0 to 3, values in columns 4 to 8"
    }
    told = choose(in_runs(scene.boxes, scores), kinds={"out1": "scores"})
    assert told.texts == {"out0": "values", "out1": "scores"}
    told = choose(in_runs(joined(scene.boxes, np.float32(1e-3) * scene.scores)))  # a detector that finds nothing here
    assert told.texts == {"out0": "scores in columns 4 to 8, values in columns 0 to 3 where there are scores"}
    assert (
        "detections after NMS"
        in choose(in_runs(joined(scene.boxes, scores)), kinds={"out0": "detections"}).texts["out0"]
    )


@pytest.mark.parametrize("layout", ["[N,R,C]", "[N,C,R]"])
@pytest.mark.parametrize("split", [False, True], ids=["one output", "two outputs"])
def test_boxes_do_not_hide_scores(layout: str, split: bool) -> None:
    """Half of all scores lost beside boxes in pixels: over the variance of the whole tensor this is next to nothing."""
    scene = Scene()
    codes = (100 * np.random.default_rng(0).normal(size=scene.boxes.shape)).astype(np.float32)

    def make(scores: np.ndarray) -> Runs:
        parts = [codes, scores] if split else [joined(codes, scores)]
        return in_runs(*(part if layout == "[N,R,C]" else part.transpose(0, 2, 1) for part in parts))

    runs, got = make(scene.scores), make(scene.scores / 2)
    assert error(runs, got) == pytest.approx(0.25 / 2, rel=0.05), "a quarter of the scores' power, boxes without error"
    if not split:
        assert error_over_variance(runs[0][0], got[0][0]) < 1e-4
    boxes = make(scene.scores)
    rows = slice(None), slice(0, 10)
    for run, sample in zip(boxes, range(SAMPLES), strict=True):
        active = scene.scores[sample].max(axis=1) > 0.3
        view = run[0][0] if layout == "[N,R,C]" else run[0][0].T
        view[~active, :4] += 50
    assert rows and error(runs, boxes) < 0.05, "boxes where there is nothing"


def test_a_map_of_objectness_codes_and_class_scores_is_three_things() -> None:
    """FastestDet's [N,1+4+C,H,W]."""
    scene = Scene()
    rows = scene.strides == 8
    raw = joined(scene.objectness, 3 * scene.codes - 2, scene.scores)[:, rows].transpose(0, 2, 1)
    runs = in_runs(raw.reshape(SAMPLES, 5 + CLASSES, 8, 8).astype(np.float32))
    assert choose(runs).texts == {
        "out0": "scores in columns 5 to 9 times the objectness in column 0, "
        "values in columns 1 to 4 where there are scores"
    }


def test_an_objectness_in_an_output_of_its_own_multiplies_the_scores() -> None:
    scene = Scene()
    texts = choose(in_runs(scene.scores, scene.objectness, 3 * scene.codes - 2)).texts
    assert texts == {
        "out0": "scores times the objectness 'out1'",
        "out1": "objectness",
        "out2": "values where there are scores",
    }


def test_logits_of_rare_detections_are_scores() -> None:
    scene = Scene()
    logits = np.log(scene.scores / (1 - scene.scores) + 1e-4).astype(np.float32)
    codes = 3 * scene.codes - 2
    assert choose(in_runs(logits, codes)).texts == {"out0": "logits of scores", "out1": "values where there are scores"}
    background = np.full_like(logits[..., :1], 4)  # an SSD's, of a softmax
    ssd = in_runs(joined(background, logits + 5), codes)
    assert choose(ssd).texts == {"out0": "logits of scores", "out1": "values where there are scores"}
    got = in_runs(joined(background, logits + 5 - 3 * (logits > 0)), codes)
    assert error(ssd, got) > 0.1


def test_detections_that_the_model_selects_itself_are_judged_in_any_order() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 300, (SAMPLES, 20, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 60, (SAMPLES, 20, 2))], axis=2).astype(np.float32)
    scores = -np.sort(-random.uniform(0, 1, (SAMPLES, 20)).astype(np.float32), axis=1)
    classes = random.integers(0, 80, (SAMPLES, 20))
    count = np.full((SAMPLES, 1), 20, np.int32)
    order = random.permutation(20)
    rows = np.concatenate([boxes, scores[..., None], classes[..., None]], axis=2).astype(np.float32)
    mirrored = rows[..., [5, 4, 0, 1, 2, 3]]
    three = (count, boxes, scores, classes.astype(np.int32))
    two = (rows[..., :5], classes)  # of MMDeploy
    numbers = np.zeros_like(rows[..., :1])  # of the images in the batch
    yolov7 = np.concatenate([numbers, boxes, classes[..., None], scores[..., None]], axis=2).astype(np.float32)
    ssd = np.concatenate([numbers, classes[..., None], scores[..., None], boxes], axis=2).astype(np.float32)[:, None]
    counted, floats = (rows, count[:, 0]), (boxes, classes.astype(np.float32), scores)
    for outputs in ((rows,), (rows[:, None],), (mirrored,), (yolov7,), (ssd,), two, three, counted, floats):
        runs = in_runs(*outputs)
        *texts, last = sorted(choose(runs).texts.values())
        assert {*texts, last} - {"the number of selected rows"} == {"judged as detections"}
        shuffled = in_runs(*(output.take(order, axis=output.shape.index(20)) if 20 in output.shape else output
                             for output in outputs))  # fmt: skip
        assert error(runs, shuffled) == pytest.approx(0, abs=1e-9)
    fewer = [[run[0][0]] for run in in_runs(rows)]  # [K,6], as many as there are
    fewer = [[run[0][: 5 + index]] for index, run in enumerate(fewer)]
    assert set(choose(fewer).texts.values()) == {"judged as detections"}
    assert error(fewer, [[run[0][1:]] for run in fewer]) > 0.1


def test_vectors_maps_images_and_labels() -> None:
    random = np.random.default_rng(0)
    spread = 10 ** random.normal(0, 0.6, 128)
    embedding = (random.normal(size=(SAMPLES, 128)) * spread).astype(np.float32)
    assert choose(in_runs(embedding)).texts == {"out0": "values"}
    got = embedding + 0.1 * random.normal(size=embedding.shape).astype(np.float32)
    wanted = np.square(embedding - got).sum() / np.square(embedding - embedding.mean()).sum()
    assert error(in_runs(embedding), in_runs(got)) == pytest.approx(wanted, rel=1e-4)

    person = np.concatenate([random.normal(40, 15, (SAMPLES, 1)), random.uniform(0, 1, (SAMPLES, 2))], axis=1)
    assert choose(in_runs(person.astype(np.float32))).texts == {"out0": "values in column 0, values in columns 1 to 2"}

    logits = random.normal(0, 3, (SAMPLES, 21, 16, 12)).astype(np.float32)
    assert choose(in_runs(logits)).texts == {"out0": "values"}
    assert choose(in_runs(logits.argmax(axis=1))).texts == {"out0": "labels"}
    assert choose(in_runs(logits[:, 0] > 0)).texts == {"out0": "labels"}
    assert choose(in_runs(np.uint8(random.integers(0, 256, (SAMPLES, 3, 16, 16))))).texts == {"out0": "values"}

    flow = np.concatenate([random.normal(0, 30, (SAMPLES, 2, 16, 16)), random.normal(0, 0.5, (SAMPLES, 1, 16, 16))], 1)
    runs = in_runs(flow.astype(np.float32))
    assert choose(runs).texts == {"out0": "values in columns 0 to 1, values in column 2"}
    lost = flow.copy()
    lost[:, 2] = 0  # the small channel is half of what the output says
    assert error(runs, in_runs(lost.astype(np.float32))) == pytest.approx(0.5, rel=0.01)


def test_outputs_whose_shape_the_data_decides_are_judged_by_themselves() -> None:
    random = np.random.default_rng(0)
    runs = [[random.normal(size=(count, 7)).astype(np.float32)] for count in (3, 5, 0, 4)]
    assert choose(runs).texts == {"out0": "values"}
    assert error(runs, runs) == 0
    assert error(runs, [[run[0][:-1]] for run in runs]) == pytest.approx(3 / 4)


def test_the_users_word_goes_first() -> None:
    scene = Scene()
    whole = in_runs(joined(scene.boxes, scene.scores))
    assert choose(whole, kinds={"out0": "values"}).texts == {"out0": "values"}
    random = np.random.default_rng(5)
    moving = np.stack([random.permutation(boxes) for boxes in scene.xyxy])  # that no cell decides
    assert "detections" not in choose(in_runs(moving, scene.scores)).texts["out0"]
    told = choose(in_runs(moving, scene.scores), kinds={"out0": "boxes"})
    assert told.texts["out0"] == "boxes (corners), judged as detections after NMS"
    told = choose(in_runs(joined(moving, scene.scores)), kinds={"out0": "detections"})
    assert (
        told.texts["out0"]
        == "boxes in columns 0 to 3 (corners), scores in columns 4 to 8, judged as detections after NMS"
    )
    dense = random.uniform(0.2, 0.9, (SAMPLES, 3, 8, 8)).astype(np.float32)
    assert choose(in_runs(dense)).texts == {"out0": "values"}
    assert choose(in_runs(dense), kinds={"out0": "scores"}).texts == {"out0": "scores"}
    vector = random.normal(size=(SAMPLES, 10)).astype(np.float32)
    assert choose(in_runs(vector), kinds={"out0": "logits"}).texts == {"out0": "logits of a classifier"}
    classes = random.normal(0, 3, (SAMPLES, 3, 8, 8)).astype(np.float32)
    assert choose(in_runs(classes), kinds={"out0": "logits"}).texts == {"out0": "logits of scores"}


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"output": "values"}, "unknown output 'output': did you mean 'out0'"),
        ({"out0": "boxes"}, r"--output-kind out0=boxes: its shape is \[1, 3, 64\]; expected boxes \[N,R,4\]"),
        ({"out0": "detections"}, r"--output-kind out0=detections: its shape is \[1, 3, 64\]"),
    ],
)
def test_a_kind_that_an_output_cannot_be_is_one_line(kinds: dict[str, str], message: str) -> None:
    runs = in_runs(np.random.default_rng(0).normal(size=(SAMPLES, 3, 64)).astype(np.float32))
    with pytest.raises(UserError, match=message):
        choose(runs, kinds=kinds)


@pytest.mark.parametrize("detections", [3, 1])
def test_the_integer_classes_of_finished_detections_are_no_number_of_them(detections: int) -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 50, (detections, 2))
    boxes = np.concatenate([corners, corners + 10], axis=1).astype(np.float32)
    scores = np.linspace(0.9, 0.5, detections).astype(np.float32)
    run = [boxes, np.arange(1, detections + 1), scores]
    chosen = choose([run, run])
    assert len([text for text in chosen.texts.values() if "detections" in text]) == 3


def test_the_first_map_of_keypoints_is_no_objectness() -> None:
    random = np.random.default_rng(0)
    runs = []
    for _ in range(4):
        maps = np.zeros((1, 17, 16, 12), np.float32)
        for image_map in maps[0]:
            image_map[random.integers(6, 8), random.integers(5, 7)] = 0.9
        runs.append([maps])
    assert "objectness" not in choose(runs).texts["out0"]


def test_an_image_without_detections_counts_as_such() -> None:
    row = np.array([[10, 10, 30, 30, 0.9, 1]], np.float32)
    full, empty = [np.concatenate([row, row + [[0, 20, 0, 20, -0.1, 0]]]).astype(np.float32)], [row[:0]]
    assert error([full, full], [full, empty]) == pytest.approx(0.5)
    assert error([full, empty], [full, empty]) == 0


def test_a_sample_that_is_not_finite_leaves_the_others_their_error() -> None:
    random = np.random.default_rng(0)
    runs = [[random.normal(size=(2, 8)).astype(np.float32)] for _ in range(3)]
    broken = [[runs[0][0].copy()], *runs[1:]]
    broken[0][0][0, 0] = -np.inf
    measured = error([*broken], [broken[0], [runs[1][0] + 1], runs[2]], kinds={"out0": "values"})
    assert np.isfinite(measured) and measured > 0


def test_boxes_with_an_axis_of_one_belong_to_scores_without_it() -> None:
    """As TensorFlow's SSDs write them: [N,R,1,4] beside [N,R,C], and an objectness [N,1,R,1]."""
    scene, got = Scene(), Scene().noisy()
    plain = error(in_runs(scene.codes, scene.scores), in_runs(got.codes, got.scores))
    longer = [in_runs(each.codes[:, :, None], each.scores) for each in (scene, got)]
    assert error(*longer) == pytest.approx(plain) and plain < 0.2
    gates = [each.objectness.transpose(0, 2, 1)[..., None] for each in (scene, got)]
    gated = [in_runs(each.codes, each.scores, gate) for each, gate in zip((scene, got), gates, strict=True)]
    assert error(*gated) < 0.2


def test_offsets_from_anchors_are_no_corners() -> None:
    """As of MediaPipe: small offsets in front of sizes that follow the anchor."""
    scene, random = Scene(), np.random.default_rng(2)
    offsets = random.normal(0, 5, scene.boxes[..., :2].shape)
    sizes = scene.strides[:, None] * random.uniform(3, 4, scene.boxes[..., 2:].shape)
    codes = np.concatenate([offsets, sizes + 25], axis=2).astype(np.float32)
    assert "detections" not in choose(in_runs(codes, scene.scores)).texts["out0"]


def test_scores_are_no_coordinate_in_the_midst_of_others() -> None:
    """As of BlazeFace: a coordinate that is low nearly everywhere, beside logits with a long tail below."""
    scene, random = Scene(), np.random.default_rng(2)
    points = random.normal(0, 20, (*scene.boxes.shape[:2], 12)).astype(np.float32)
    points[..., 8] = random.normal(-13, 5, points.shape[:2])
    points[0, 0, 8] = 3
    codes = np.concatenate([scene.codes, points], axis=2)
    logits = (-4 - random.exponential(12, (*scene.boxes.shape[:2], 1))).astype(np.float32)
    for sample in range(SAMPLES):
        logits[sample, sample : sample + 9] = 2.0
    texts = choose(in_runs(codes, logits)).texts
    assert texts["out1"] == "logits of scores" and "scores in column" not in texts["out0"]


def test_decibels_are_no_logits_of_which_all_would_be_0() -> None:
    levels = np.random.default_rng(0).normal(-40, 12, (SAMPLES, 1, 32, 32)).astype(np.float32)
    levels[0, 0, 0, 0] = 5
    assert choose(in_runs(levels)).texts == {"out0": "values"}
    assert error(in_runs(levels), in_runs(np.full_like(levels, -45))) > 0.5


def test_logits_of_one_class_are_of_a_sigmoid() -> None:
    random = np.random.default_rng(0)
    rows, vector = (random.normal(0, 2, shape).astype(np.float32) for shape in ((SAMPLES, 64, 1), (SAMPLES, 1)))
    for array in (rows, vector):
        runs = in_runs(array)
        assert error(runs, in_runs(array + 3), kinds={"out0": "logits"}) > 0.1
        assert error(runs, runs, kinds={"out0": "logits"}) == 0


def test_nearly_constant_columns_are_no_block_of_their_own() -> None:
    features = np.random.default_rng(0).normal(0, 0.6, (SAMPLES, 4, 64)).astype(np.float32).reshape(-1, 64)
    features[:, [20, 21]] = 1e-7 * features[:, [20, 21]] - 0.3
    assert choose([[features]]).texts == {"out0": "values"}


def test_outputs_that_no_layer_makes_do_not_count() -> None:
    net = networks.Network()
    x = net.input("x", [1, 3, 8, 8])
    net.output(net.conv(x, "a", 3, 4), [1, 4, 8, 8])
    net.output(net.node("Identity", [net.constant("all", np.ones((9, 4), np.float32))], "anchors"), [9, 4])
    model = onnx_file.prepare(ir.from_proto(net.proto()))
    values = np.random.default_rng(0).normal(size=(SAMPLES, 1, 4, 8, 8)).astype(np.float32)
    runs = [[each, np.ones((9, 4), np.float32)] for each in values]
    choice = choose_judges(model, runs)
    assert choice.texts == {"a": "values", "anchors": "not judged, as no layer makes it"}
    measure = OutputError(choice.judges, runs)
    assert measure.of(0, [0 * values[0], runs[0][1]]) == pytest.approx(1, rel=0.1)
    assert choose_judges(model, runs, kinds={"anchors": "values"}).texts["anchors"] == "values"
