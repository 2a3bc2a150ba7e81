"""Describes the heads of other projects' detectors, a row each: what a network takes, and what its output means.

A row is of a project's own exporter. Sources, for pre-processing, decoding and the IoU of NMS in the evaluation:

- YOLOX: Megvii-BaseDetection/YOLOX, demo/ONNXRuntime/onnx_inference.py, `demo_postprocess` of
  yolox/utils/demo_utils.py, `preproc` of yolox/data/data_augment.py; `nmsthre` of yolox/exp/yolox_base.py.
- YOLOv5: ultralytics/yolov5, `non_max_suppression` of utils/general.py, val.py.
- YOLOv8 and later: ultralytics/ultralytics, `non_max_suppression` of ultralytics/utils/ops.py, cfg/default.yaml.
- YOLOv10: THU-MIG/yolov10#7, and the branch "end-to-end model" of the same `non_max_suppression`.
- NanoDet: RangiLyu/nanodet, gfl_head.py, nanodet_head.py and nanodet_plus_head.py of nanodet/model/head,
  config/nanodet-m.yml.

The image's letterbox is effedge's: top-left, with the row's fill, resized with antialiasing. YOLOX places it so too;
the others centre it, and NanoDet-Plus stretches the image (`otherwise`). A shift does not change what a convolutional
network finds, but at the borders of the image and in the last digits of a score.
"""

from __future__ import annotations

from dataclasses import dataclass

# The box codes of a row's first, or last, columns.
CENTRES = "centres"  # centre x, y, width, height in pixels
GRID = "grid"  # (x, y) + cell in strides, and log of width and height in strides
DISTANCES = (
    "distances"  # left, top, right, bottom of the cell's point in strides, each a distribution over 0, 1, 2, ...
)
CORNERS = "corners"  # x1, y1, x2, y2 in pixels, then score and class: no NMS is needed
NO_NMS = 1.0  # no two boxes overlap by more

IMAGENET_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


@dataclass(frozen=True)
class Head:
    """A kind of detector's head.

    Attributes:
        models: the models that have it, for --help.
        boxes: the code of a box: CENTRES, GRID, DISTANCES or CORNERS.
        iou: of NMS, as the project evaluates its models.
        box_columns: the number of columns of a box's code.
        objectness: a column behind the box multiplies the class scores.
        boxes_first: the box's columns come before the class scores.
        columns_first: the output is [N,columns,boxes], else [N,boxes,columns].
        strides: of the levels, of codes that are relative to cells.
        centre: of a cell, in cells.
        bgr: the network takes blue, green, red.
        mean, std: of each channel in the network's order, for pixels of 0 to 255.
        fill: the RGB colour of the letterbox.
        otherwise: what the project does with an image that effedge places top-left; empty: the same.
        marks: parts of weights' names that only such models have.
    """

    models: str
    boxes: str
    iou: float
    box_columns: int = 4
    objectness: bool = False
    boxes_first: bool = True
    columns_first: bool = False
    strides: tuple[int, ...] = (8, 16, 32)
    centre: float = 0.0
    bgr: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    fill: tuple[int, int, int] = (114, 114, 114)
    otherwise: str = "centres"
    marks: tuple[str, ...] = ()

    def columns(self, classes: int) -> int:
        """Returns the number of columns of a model with so many classes."""
        if self.boxes == CORNERS:
            return 6
        return self.box_columns + self.objectness + classes

    def cells(self, height: int, width: int) -> int:
        """Returns the number of cells of all levels together."""
        return sum(-(-height // stride) * -(-width // stride) for stride in self.strides)


HEADS = {
    "yolox": Head(
        "YOLOX from 0.2 on", GRID, 0.65, objectness=True, bgr=True, std=(1.0, 1.0, 1.0), otherwise="",
        marks=("head.obj_preds.",),
    ),
    "yolox-legacy": Head(
        "YOLOX before 0.2", GRID, 0.65, objectness=True, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
        otherwise="",
    ),
    "yolov8": Head("YOLOv8, YOLOv9, YOLO11, YOLO12", CENTRES, 0.7, columns_first=True),
    "yolov5": Head("YOLOv5, YOLOv7", CENTRES, 0.6, objectness=True),
    "yolov10": Head("YOLOv10, YOLO26, Ultralytics' exports with nms=True", CORNERS, NO_NMS),
    "nanodet": Head(
        "NanoDet", DISTANCES, 0.6, box_columns=32, boxes_first=False, centre=0.5, bgr=True, mean=IMAGENET_BGR[0],
        std=IMAGENET_BGR[1], fill=(0, 0, 0),
    ),
    "nanodet-plus": Head(
        "NanoDet-Plus", DISTANCES, 0.6, box_columns=32, boxes_first=False, strides=(8, 16, 32, 64), bgr=True,
        mean=IMAGENET_BGR[0], std=IMAGENET_BGR[1], fill=(0, 0, 0), otherwise="stretches",
    ),
}  # fmt: skip
HEADS_HELP = "; ".join(f"{name} ({head.models})" for name, head in HEADS.items())


def likely_head(
    size: tuple[int, int], shapes: dict[str, tuple[int | str, ...] | None], weights: set[str]
) -> str | None:
    """Returns the name of the head that a model has, by its shapes and its weights' names; None: they leave it open.

    A model for poses or turned boxes has the shape of a detector with more classes.

    Args:
        size: (height, width) of the model's input.
        shapes: of its outputs, by name; None: unknown.
    """
    cells = HEADS["yolov8"].cells(*size)
    flat = [shape for shape in shapes.values() if shape is not None and len(shape) == 3]
    if not flat or len({shape[1:] for shape in flat}) != 1 or len(shapes) != len(flat):
        return None
    _, first, second = flat[0]
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    for name, head in HEADS.items():
        if (
            head.marks
            and first == head.cells(*size)
            and any(mark in weight for mark in head.marks for weight in weights)
        ):
            return name
    if (first, second) == (300, 6):
        return "yolov10"
    if first == 3 * cells and second > 5:
        return "yolov5"
    return "yolov8" if second == cells and 4 < first < second else None
