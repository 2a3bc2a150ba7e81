"""Detectors with scores and boxes apart (YuNet, SSDs, RetinaNets): candidates as in the projects' post-processing.

The priors are written here anew from each project's code, box by box; torchvision, MMDetection and Detectron2 are not
installed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import read_header
from effedge.pipeline.export.heads.attach import attach_head, note_likely_head
from effedge.pipeline.export.heads.priors import priors_of
from effedge.pipeline.export.heads.table import HEADS
from effedge.pipeline.export.simplify import simplify_file
from tests.pipeline.export.foreign_files import run_file
from tests.pipeline.export.heads.networks import APART, APART_SIZES, apart_input, apart_network, apart_size, maps
from tests.pipeline.export.heads.test_attach import (
    ONE,
    assert_same_candidates,
    attached,
    on_an_image,
    stretched_by_pillow,
)

WITH_PRIORS = [name for name in APART if HEADS[name].priors]
NAMES = "cat\ndog\nbird\n"


def image_of(name):
    return np.random.default_rng(3).integers(0, 256, (1, *apart_size(name), 3)).astype(np.uint8)


def cells_of(size, strides):
    """(stride, level, row, column, rows, columns) of each cell."""
    for level, stride in enumerate(strides):
        rows, columns = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        for row in range(rows):
            for column in range(columns):
                yield stride, level, row, column, rows, columns


def reference_priors(name, size):
    """Centre x, y, width, height in pixels, box by box."""
    height, width = size
    priors = []
    if name == "ultraface":  # generate_priors: min_boxes, clamped to the image
        sides = [[10, 16, 24], [32, 48], [64, 96], [128, 192, 256]]
        for _, level, row, column, rows, columns in cells_of(size, (8, 16, 32, 64)):
            for side in sides[level]:
                at = [(column + 0.5) / columns, (row + 0.5) / rows, min(side / width, 1), min(side / height, 1)]
                priors.append(np.array(at) * [width, height, width, height])
    elif name in ("ssd300", "ssdlite"):  # DefaultBoxGenerator
        ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]] if name == "ssd300" else [[2, 3]] * 6
        scales = (
            [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05] if name == "ssd300" else [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1]
        )
        steps = [8, 16, 32, 64, 100, 300] if name == "ssd300" else [16, 32, 64, 128, 256, 512]
        maps_of = [38, 19, 10, 5, 3, 1]
        for level in range(6):
            rows = maps_of[level] if name == "ssd300" else math.ceil(height / steps[level])
            columns = maps_of[level] if name == "ssd300" else math.ceil(width / steps[level])
            pairs = [[scales[level]] * 2, [math.sqrt(scales[level] * scales[level + 1])] * 2]
            for ratio in ratios[level]:
                sides = [scales[level] * ratio**0.5, scales[level] / ratio**0.5]
                pairs += [sides, sides[::-1]]
            for row in range(rows):
                for column in range(columns):
                    x, y = ((column + 0.5) / columns, (row + 0.5) / rows)
                    if name == "ssd300":
                        x, y = (column + 0.5) * steps[level] / 300, (row + 0.5) * steps[level] / 300
                    for w, h in np.clip(pairs, 0, 1):
                        priors.append([x * width, y * height, w * width, h * height])
    else:
        for stride, _, row, column, rows, columns in cells_of(size, (8, 16, 32, 64, 128)):
            kinds = [(ratio, third) for ratio in (0.5, 1, 2) for third in range(3)]
            if name == "retinanet-detectron2":
                kinds = [(ratio, third) for third in range(3) for ratio in (0.5, 1, 2)]
            for ratio, third in kinds:
                side, x, y = 4 * stride * 2 ** (third / 3), column * stride, row * stride
                w, h = side / ratio**0.5, side * ratio**0.5
                if name == "retinanet":  # AnchorGenerator: whole sides, rounded corners, the steps of the maps
                    w, h = (2 * round(int(side) * factor / 2) for factor in (ratio**-0.5, ratio**0.5))
                    x, y = column * (width // columns), row * (height // rows)
                priors.append([x, y, w, h])
    return np.array(priors, np.float64)


def decoded(name, codes, size):
    """Corners of codes [A,4]: BoxCoder.decode_single, convert_locations_to_boxes, delta2bbox."""
    priors, codes = reference_priors(name, size), codes.astype(np.float64)
    first, second = (0.1, 0.2) if HEADS[name].background else (1, 1)
    centre = codes[:, :2] * first * priors[:, 2:] + priors[:, :2]
    half = np.exp(np.minimum(codes[:, 2:] * second, math.log(1000 / 16))) * priors[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def probabilities(name, logits):
    """Without the background: of an SSD a softmax, of a RetinaNet a sigmoid."""
    if not HEADS[name].background:
        return 1 / (1 + np.exp(-logits.astype(np.float64)))
    powers = np.exp(logits.astype(np.float64))
    return (powers / powers.sum(axis=1, keepdims=True))[:, 1:]


@pytest.mark.parametrize("name", WITH_PRIORS)
def test_priors_are_those_of_the_projects_code(name):
    sizes = [apart_size(name)] + ([(240, 320), (320, 320)] if name not in APART_SIZES else [])
    for size in sizes:
        np.testing.assert_allclose(
            priors_of(HEADS[name].priors, size), reference_priors(name, size), rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [("ultraface", (240, 320), 4420), ("ultraface", (480, 640), 17640), ("ssd300", (300, 300), 8732),
     ("ssdlite", (320, 320), 3234),
     ("retinanet", (800, 1088), 9 * (100 * 136 + 50 * 68 + 25 * 34 + 13 * 17 + 7 * 9))],
)  # fmt: skip
def test_the_number_of_priors_is_that_of_the_published_models(name, size, count):
    assert len(priors_of(HEADS[name].priors, size)) == count


@pytest.mark.parametrize("name", WITH_PRIORS)
def test_candidates_of_logits_and_deltas_are_those_of_the_projects_own_post_processing(name, labels, tmp_path):
    size = apart_size(name)
    count = len(reference_priors(name, size))
    classes = 4 if HEADS[name].background else 3
    levels = tuple(9 * rows * columns for rows, columns in maps(name)) if "mmdet" in name else ()
    source = apart_network(name, tmp_path / "net.onnx", count, classes, levels=levels)
    outputs = run_file(source, {"images": apart_input(name, image_of(name))})
    if levels:  # permute(0, 2, 3, 1).reshape(-1, columns) of each map
        tables = {
            part: np.concatenate(
                [outputs[f"{part}_{at}"].transpose(0, 2, 3, 1).reshape(-1, columns) for at in range(5)]
            )
            for part, columns in (("scores", classes), ("boxes", 4))
        }
    else:
        tables = {part: outputs[part][0] for part in ("scores", "boxes")}
    result = run_file(attached(source, name, labels, tmp_path), {"image": image_of(name)})
    assert_same_candidates(result, decoded(name, tables["boxes"], size), probabilities(name, tables["scores"]))


@pytest.mark.parametrize("image_size", [(200, 430), (433, 90)])
@pytest.mark.parametrize("name", ["ultraface", "ssd300", "ssdlite"])
def test_boxes_of_a_stretched_image_are_in_its_pixels_as_the_project_has_them(name, labels, tmp_path, image_size):
    """`resize_boxes` of torchvision's GeneralizedRCNNTransform; `boxes[:, 0] *= width` of Ultra-Light-Fast."""
    size = apart_size(name)
    source = apart_network(name, tmp_path / "net.onnx", len(reference_priors(name, size)), 4)
    image = np.random.default_rng(5).integers(0, 256, (*image_size, 3)).astype(np.uint8)
    tables = run_file(source, {"images": apart_input(name, stretched_by_pillow(image, size))})
    (height, width), (image_height, image_width) = size, image_size
    boxes = decoded(name, tables["boxes"][0], size) / ([width, height] * 2) * ([image_width, image_height] * 2)
    outputs = on_an_image(attached(source, name, labels, tmp_path), image)
    clipped = np.clip(boxes, 0, [image_width, image_height] * 2)  # clip_boxes_to_image
    assert_same_candidates(outputs, clipped, probabilities(name, tables["scores"][0]))


def test_a_yunets_score_is_the_root_of_its_product_and_its_boxes_are_of_cells(tmp_path):
    """`FaceDetectorYNImpl::postProcess` of OpenCV."""
    size = apart_size("yunet")
    levels = tuple((size[0] // stride) * (size[1] // stride) for stride in (8, 16, 32))
    source = apart_network("yunet", tmp_path / "net.onnx", 0, 1, levels=levels)
    outputs = run_file(source, {"images": apart_input("yunet", image_of("yunet"))})
    tables = {
        part: np.concatenate([outputs[f"{part}_{at}"][0] for at in range(3)]).astype(np.float64)
        for part in ("scores", "objectness", "boxes")
    }
    boxes = []
    for code, (stride, _, row, column, *_) in zip(tables["boxes"], cells_of(size, (8, 16, 32)), strict=True):
        x, y, w, h = (code[0] + column) * stride, (code[1] + row) * stride, *(np.exp(code[2:]) * stride)
        boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    result = run_file(attached(source, "yunet", None, tmp_path), {"image": image_of("yunet")})
    assert_same_candidates(result, np.array(boxes), np.sqrt(tables["scores"] * tables["objectness"]))
    assert read_header(tmp_path / "detector.onnx").spec["labels"] == ["face"]


@pytest.mark.parametrize("code", ["relative", "pixels"])
def test_boxes_that_the_network_decodes_are_not_decoded_again(code, labels, tmp_path):
    source = apart_network("ssd", tmp_path / "net.onnx", 500, 4, decoded=code)
    outputs = run_file(source, {"images": apart_input("ssd", image_of("ssd"))})
    height, width = apart_size("ssd")
    boxes = outputs["boxes"][0] * ([width, height] * 2 if code == "relative" else 1)
    result = run_file(attached(source, "ssd", labels, tmp_path), {"image": image_of("ssd")})
    assert_same_candidates(result, boxes, probabilities("ssd", outputs["scores"][0]))


def test_a_retinanet_of_torchvision_has_a_column_of_the_background_that_is_no_class(labels, tmp_path):
    size = apart_size("retinanet")
    source = apart_network("retinanet", tmp_path / "net.onnx", len(reference_priors("retinanet", size)), 4)
    outputs = run_file(source, {"images": apart_input("retinanet", image_of("retinanet"))})
    scores = probabilities("retinanet", outputs["scores"][0])[:, 1:]
    result = run_file(attached(source, "retinanet", labels, tmp_path), {"image": image_of("retinanet")})
    assert_same_candidates(result, decoded("retinanet", outputs["boxes"][0], size), scores)


@pytest.mark.parametrize("first", ["BACKGROUND", "__background__", ""])
def test_the_backgrounds_line_of_a_labels_file_names_no_class(first, tmp_path):
    (tmp_path / "labels.txt").write_text(f"{first}\n{NAMES}")
    source = apart_network("ssd", tmp_path / "net.onnx", 500, 4, decoded="relative")
    model = attach_head(source, "ssd", tmp_path / "labels.txt", ONE)
    assert '"labels":["cat","dog","bird"]' in model.metadata_props["effedge"].replace('", "', '","').replace(": ", ":")


@pytest.mark.parametrize(
    ("built", "head", "classes", "message"),
    [
        ("ssd", "ssd", 4, r"output 'boxes' has boxes relative to priors, which nothing says: export"),
        ("ssd", "ssd", 7, r"'scores' \[1, 500, 7\].* for 3 classes: expected rows of 4 columns \(boxes\) and of 4"),
        ("ssd", "ssdlite", 4, r"expected \d+ rows of 4 columns"),
        ("ssd", "ssd300", 4, "priors, which nothing says for another input than 300 x 300 pixels: export"),
        ("ssd", "yunet", 4, r"rows of 4 columns \(boxes\), of 1 \(objectness\) and of 3 \(scores\)"),
        ("ssd", "retinanet", 3, r"expected 3915 rows of 4 columns \(boxes\) and of 3 or 4 \(scores\)"),
    ],
)
def test_what_does_not_fit_is_one_line(built, head, classes, message, labels, tmp_path):
    source = apart_network(built, tmp_path / "net.onnx", 500, classes)
    with pytest.raises(UserError, match=message):
        attach_head(source, head, labels, ONE)


def test_face_detectors_are_suggested_by_their_shapes_and_others_only_by_their_weights(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, suggested in (("ultraface", True), ("ssdlite", False), ("retinanet", False)):
        source = apart_network(name, tmp_path / "net.onnx", len(reference_priors(name, apart_size(name))), 4)
        caplog.clear()
        note_likely_head(read_header(source), source)
        assert (f"with --head {name} (HEAD)" in caplog.text) == suggested
    source = apart_network("yunet", tmp_path / "net.onnx", 0, 1, levels=(96, 24, 6))
    note_likely_head(read_header(source), source)
    assert "with --head yunet (HEAD)" in caplog.text


@pytest.mark.parametrize("name", ["ultraface", "yunet"])
def test_the_simplified_detector_runs_in_openvino(name, tmp_path):
    openvino = pytest.importorskip("openvino")
    count = len(reference_priors(name, apart_size(name))) if name == "ultraface" else 0
    levels = (96, 24, 6) if name == "yunet" else ()
    source = apart_network(name, tmp_path / "net.onnx", count, 2 if name == "ultraface" else 1, levels=levels)
    detector = attached(source, name, None, tmp_path)
    simplify_file(detector, tmp_path / "simplified.onnx")
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(tmp_path / "simplified.onnx"), "CPU", hint)
    outputs = {key.get_any_name(): array for key, array in compiled({"image": image_of(name)}).items()}
    expected = run_file(detector, {"image": image_of(name)})
    np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs["boxes"][0, :20], expected["boxes"][0, :20], rtol=1e-4, atol=2e-3)
