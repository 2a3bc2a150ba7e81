"""Small networks with the output of each head, and the projects' post-processing written in NumPy.

A network is a convolution with noise for weights, whose values a table spreads over the columns, so that each output
depends on the image. The references follow the projects' own code, named at each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from effedge.pipeline.export.heads.table import HEADS
from tests.pipeline.export.foreign_files import save

SIZE = (64, 96)  # height, width
CLASSES = 3
LEVELS = {"nanodet-plus": (8, 16, 32, 64)}


def cells(strides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(stride, row, column) of each cell, level by level."""
    return [
        (stride, row, column)
        for stride in strides
        for row in range(-(-SIZE[0] // stride))
        for column in range(-(-SIZE[1] // stride))
    ]


def shape_of(name: str) -> tuple[int, int]:
    """Rows and columns of a head's output."""
    count = len(cells(LEVELS.get(name, (8, 16, 32))))
    return {
        "yolox": (count, 5 + CLASSES),
        "yolox-legacy": (count, 5 + CLASSES),
        "yolov8": (4 + CLASSES, count),
        "yolov5": (3 * count, 5 + CLASSES),
        "yolov10": (300, 6),
        "nanodet": (count, CLASSES + 32),
        "nanodet-plus": (count, CLASSES + 32),
    }[name]


def network(name: str, path: Path, batch: int | str = 1, split: bool = False) -> Path:
    """Writes a network whose output is that of a head; `split`: an output of scores and one of boxes a level."""
    random = np.random.default_rng(7)
    first, second = shape_of(name)
    table = random.normal(0, 1, (first, second)).astype(np.float32)
    offset = random.normal(0, 1, (first, second)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["features"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Tanh", ["features"], ["bounded"]),
        helper.make_node("ReduceMean", ["bounded"], ["mean"], axes=[2, 3], keepdims=0),  # [N,1]
        helper.make_node("Unsqueeze", ["mean", "two"], ["factor"]),  # [N,1,1]
        helper.make_node("Mul", ["factor", "table"], ["product"]),
        helper.make_node("Add", ["product", "offset"], ["raw"]),
    ]
    scores, low, gain = score_columns(name)
    axis = 1 if name == "yolov8" else 2
    end = second if axis == 2 else first
    constants = {
        "kernel": random.normal(0, 0.02, (1, 3, 3, 3)).astype(np.float32),
        "two": np.int64([2]),
        "table": table,
        "offset": offset,
        "gain": gain.astype(np.float32),
        "low": low.astype(np.float32),
        "axis": np.int64([axis]),
        **{f"at{number}": np.int64([number]) for number in {0, scores[0], scores[1], end}},
    }
    parts = []
    for start, stop in ((0, scores[0]), scores, (scores[1], end)):
        if start == stop:
            continue
        part = f"part{start}"
        nodes.append(helper.make_node("Slice", ["raw", f"at{start}", f"at{stop}", "axis"], [part]))
        if (start, stop) == scores:
            nodes.append(helper.make_node("Sigmoid", [part], [f"{part}s"]))
            part = f"{part}s"
        parts.append(part)
    nodes += [
        helper.make_node("Concat", parts, ["joined"], axis=axis),
        helper.make_node("Mul", ["joined", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "low"], ["output"]),
    ]
    outputs = {"output": [batch, first, second]}
    if split:
        outputs = split_levels(nodes, constants, name)
    return save(path, nodes, {"images": [batch, 3, *SIZE]}, outputs, constants)


def score_columns(name: str) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """The columns that are scores, and what is added to and multiplied with all, so that boxes lie in the image."""
    first, second = shape_of(name)
    low, gain = np.zeros((1, 1)), np.ones((1, 1))
    if name in ("yolox", "yolox-legacy"):
        return (4, second), low, gain
    if name.startswith("nanodet"):
        return (0, CLASSES), low, gain
    box_low, box_gain = np.array([48, 32, 24, 20]), np.array([12, 10, 4, 4])
    if name == "yolov8":
        low, gain = np.zeros((first, 1)), np.ones((first, 1))
        low[:4, 0], gain[:4, 0] = box_low, box_gain
        return (4, first), low, gain
    low, gain = np.zeros((1, second)), np.ones((1, second))
    low[0, :4], gain[0, :4] = box_low, box_gain
    if name == "yolov10":  # the corners of a box, and the class 1
        low[0, :4], gain[0, :4], low[0, 5], gain[0, 5] = [20, 16, 60, 48], 3, 1, 0
        return (4, 5), low, gain
    return (4, second), low, gain


def split_levels(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], name: str) -> dict[str, list[int]]:
    """Replaces a NanoDet's output by one of scores and one of boxes for each level."""
    outputs: dict[str, list[int]] = {}
    start = 0
    for kind, columns in (("cls", (0, CLASSES)), ("dis", (CLASSES, CLASSES + 32))):
        start = 0
        for stride in LEVELS.get(name, (8, 16, 32)):
            count = len(cells((stride,)))
            limits = {"from": [start, columns[0]], "to": [start + count, columns[1]]}
            for word, values in limits.items():
                constants[f"{kind}{stride}{word}"] = np.int64(values)
            constants["axes"] = np.int64([1, 2])
            names = [f"{kind}{stride}from", f"{kind}{stride}to", "axes"]
            nodes.append(helper.make_node("Slice", ["output", *names], [f"{kind}{stride}"]))
            outputs[f"{kind}{stride}"] = [1, count, columns[1] - columns[0]]
            start += count
    return outputs


def network_input(name: str, image: np.ndarray) -> np.ndarray:
    """The input that the project makes of a letterboxed image, RGB uint8 [N,H,W,3]."""
    pixels = image.astype(np.float32)
    if name == "yolox":  # `preproc`, without mean and deviation since 0.2; cv2.imread is BGR
        pixels = pixels[..., ::-1]
    elif name == "yolox-legacy":  # the same before 0.2: RGB, / 255, ImageNet's mean and deviation
        pixels = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    elif name.startswith("nanodet"):  # config/nanodet-m.yml: normalize, of cv2's BGR
        pixels = (pixels[..., ::-1] - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
    else:
        pixels = pixels / 255
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def reference(name: str, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float64 [A,4] xyxy and scores [A,C] of one image's output, by the project's own post-processing."""
    output = output.astype(np.float64)
    if name == "yolov10":  # "end-to-end model" in ultralytics/utils/ops.py
        scores = np.zeros((len(output), CLASSES))
        scores[np.arange(len(output)), output[:, 5].astype(int)] = output[:, 4]
        return output[:, :4], scores
    if name == "yolov8":  # prediction.transpose(-1, -2), xywh2xyxy
        output = output.T
        return xyxy(output[:, :4]), output[:, 4:]
    if name == "yolov5":  # x[:, 5:] *= x[:, 4:5], xywh2xyxy
        return xyxy(output[:, :4]), output[:, 5:] * output[:, 4:5]
    place = np.array(cells(LEVELS.get(name, (8, 16, 32))), np.float64)
    stride, xy = place[:, :1], place[:, 2:0:-1]
    if name.startswith("yolox"):  # demo_postprocess
        boxes = np.concatenate([(output[:, :2] + xy) * stride, np.exp(output[:, 2:4]) * stride], axis=1)
        return xyxy(boxes), output[:, 5:] * output[:, 4:5]
    weights = np.exp(output[:, CLASSES:].reshape(-1, 4, 8))  # Integral of gfl_head.py
    distance = (weights / weights.sum(axis=2, keepdims=True)) @ np.arange(8) * stride
    # get_single_level_center_point of gfl_head.py, get_single_level_center_priors of nanodet_plus_head.py
    point = (xy + (0.5 if name == "nanodet" else 0)) * stride
    return np.concatenate([point - distance[:, :2], point + distance[:, 2:]], axis=1), output[:, :CLASSES]


def xyxy(boxes: np.ndarray) -> np.ndarray:
    """Corners of boxes of centre, width and height."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


APART = [name for name, head in HEADS.items() if head.apart]
JOINED = [name for name, head in HEADS.items() if not head.apart]
# Height, width: of sizes that the cells do not divide, where the project has no fixed one.
APART_SIZES = {"ssd300": (300, 300), "yunet": (64, 96), "ssdlite": (96, 128)}


def apart_size(name: str) -> tuple[int, int]:
    return APART_SIZES.get(name, (120, 168))


def apart_network(
    name: str, path: Path, count: int, classes: int = CLASSES, decoded: str = "", levels: tuple[int, ...] = ()
) -> Path:
    """Writes a network with scores and boxes apart, noise that depends on the image.

    Args:
        count: of boxes.
        classes: of the scores' columns, with the background.
        decoded: the boxes are corners, "relative" or in "pixels".
        levels: boxes of each level, for an output of its own; as maps of MMDetection where `name` is of that.
    """
    random = np.random.default_rng(11)
    height, width = apart_size(name)
    widths = {"scores": classes, "boxes": 4, **({"objectness": 1} if name == "yunet" else {})}
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["features"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Tanh", ["features"], ["bounded"]),
        helper.make_node("ReduceMean", ["bounded"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "two"], ["factor"]),
    ]
    scale = 0.02 if max(HEADS[name].mean) < 2 and HEADS[name].std[0] == 1 else 0.2
    constants: dict[str, np.ndarray] = {
        "kernel": (random.normal(0, scale / 10, (1, 3, 3, 3))).astype(np.float32),
        "two": np.int64([2]),
    }
    outputs: dict[str, list[int]] = {}
    for part, columns in widths.items():
        start = 0
        for number, boxes in enumerate(levels or (count,)):
            at = f"{part}_{number}" if levels else part
            table = random.normal(0, 1, (1, boxes, columns)).astype(np.float32)
            if part == "boxes" and decoded:
                low = random.uniform(0, 0.5, (1, boxes, 2))
                table = np.concatenate([low, low + random.uniform(0.01, 0.5, (1, boxes, 2))], axis=2)
                table = (table * ((width, height) * 2 if decoded == "pixels" else (1,) * 4)).astype(np.float32)
            constants[f"table_{at}"] = table
            moved = np.zeros_like(table) if decoded and part == "boxes" else random.normal(0, 1, table.shape)
            constants[f"gain_{at}"] = moved.astype(np.float32)
            nodes.append(helper.make_node("Mul", ["factor", f"gain_{at}"], [f"product_{at}"]))
            probable = name == "yunet" and part != "boxes"
            made = f"raw_{at}" if probable or "mmdet" in name else at
            nodes.append(helper.make_node("Add", [f"product_{at}", f"table_{at}"], [made]))
            outputs[at] = [1, boxes, columns]
            if probable:
                nodes.append(helper.make_node("Sigmoid", [made], [at]))
            elif "mmdet" in name:
                rows, across = maps(name)[number]
                constants[f"shape_{at}"] = np.int64([1, rows, across, 9 * columns])
                nodes.append(helper.make_node("Reshape", [made, f"shape_{at}"], [f"cells_{at}"]))
                nodes.append(helper.make_node("Transpose", [f"cells_{at}"], [at], perm=[0, 3, 1, 2]))
                outputs[at] = [1, 9 * columns, rows, across]
            start += boxes
    return save(path, nodes, {"images": [1, 3, height, width]}, outputs, constants)


def maps(name: str) -> list[tuple[int, int]]:
    """Rows and columns of each level's cells."""
    height, width = apart_size(name)
    return [(-(-height // stride), -(-width // stride)) for stride in HEADS[name].strides]


def apart_input(name: str, image: np.ndarray) -> np.ndarray:
    """The input that the project makes of an image, RGB uint8 [N,H,W,3]."""
    pixels = image.astype(np.float64)
    mean, std = {
        "yunet": (0, 1),  # configs/yunet_n.py: to_rgb=False
        "ultraface": (127, 128),  # image_mean, image_std of fd_config.py
        "ssd": (127, 128),  # mobilenetv1_ssd_config.py
        "ssd300": (255 * np.array([0.48235, 0.45882, 0.40784]), 1),  # image_mean, image_std of ssd.py
        "ssdlite": (127.5, 127.5),  # image_mean, image_std of ssdlite.py
        "retinanet": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
        "retinanet-mmdet": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),  # img_norm_cfg
        "retinanet-detectron2": ([103.53, 116.28, 123.675], 1),  # PIXEL_MEAN, of BGR
    }[name]
    if name in ("yunet", "retinanet-detectron2"):
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2), np.float32)
