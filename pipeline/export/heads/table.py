"""Describes the heads of other projects' models, a row each: what a network takes, and what its output means.

A row is of a project's own exporter. Sources, for pre-processing, decoding and the IoU of NMS in the evaluation:

- YOLOX: Megvii-BaseDetection/YOLOX, demo/ONNXRuntime/onnx_inference.py, `demo_postprocess` of
  yolox/utils/demo_utils.py, `preproc` of yolox/data/data_augment.py; `nmsthre` of yolox/exp/yolox_base.py.
- YOLOv5: ultralytics/yolov5, `non_max_suppression` of utils/general.py, val.py.
- YOLOv8 and later: ultralytics/ultralytics, `non_max_suppression` of ultralytics/utils/ops.py, cfg/default.yaml.
- YOLOv10: THU-MIG/yolov10#7, and the branch "end-to-end model" of the same `non_max_suppression`.
- NanoDet: RangiLyu/nanodet, gfl_head.py, nanodet_head.py and nanodet_plus_head.py of nanodet/model/head,
  config/nanodet-m.yml.
- YuNet: ShiqiYu/libfacedetection.train, yunet_head.py of mmdet/models/dense_heads, configs/yunet_n.py; the score is the
  root of its product, as in libfacedetection and in `FaceDetectorYN` of OpenCV.
- SSD: qfgaohao/pytorch-ssd, which jetson-inference trains with, vision/ssd/config; Linzaer's Ultra-Light-Fast-Generic-
  Face-Detector-1MB, vision/ssd/config/fd_config.py; pytorch/vision, ssd.py and ssdlite.py of
  torchvision/models/detection.
- RetinaNet: pytorch/vision, retinanet.py of torchvision/models/detection; open-mmlab/mmdetection,
  configs/_base_/models/retinanet_r50_fpn.py; facebookresearch/detectron2, configs/Base-RetinaNet.yaml.
- Classifiers: pytorch/vision, `ImageClassification` of torchvision/transforms/_presets.py; timm/data/constants.py; mode
  "tf" of `preprocess_input`, keras/src/applications/imagenet_utils.py; ultralytics, `classify_transforms` of
  ultralytics/data/augment.py.

SSDs and NanoDet-Plus stretch the image to the input, here too (`stretches`). The letterbox of the others is effedge's:
top-left, with the row's fill. YOLOX, YuNet and RetinaNet place the image so too, the others centre it (`otherwise`): a
shift does not change what a convolutional network finds, but at the borders of the image and in the last digits of a
score. Any resize here has antialiasing, which the projects' OpenCV and torchvision leave out.
"""

from __future__ import annotations

from dataclasses import dataclass

from effedge.pipeline.export.heads.priors import PRIORS

# The box codes of a row's first, or last, columns.
CENTRES = "centres"  # centre x, y, width, height in pixels
GRID = "grid"  # (x, y) + cell in strides, and log of width and height in strides
DISTANCES = (
    "distances"  # left, top, right, bottom of the cell's point in strides, each a distribution over 0, 1, 2, ...
)
CORNERS = "corners"  # x1, y1, x2, y2 in pixels, then score and class: no NMS is needed
DELTAS = "deltas"  # offset of the centre in sizes of the prior box, and log of width and height in these
# What a network may make of DELTAS itself.
PIXELS = "pixels"  # x1, y1, x2, y2 in pixels
RELATIVE = "relative"  # x1, y1, x2, y2 as fractions of the input's width and height
ANCHORS_PER_CELL = 9  # of a RetinaNet: three sides and three ratios
NO_NMS = 1.0  # no two boxes overlap by more

IMAGENET_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
IMAGENET_RGB = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ONES = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Head:
    """A kind of detector's head.

    Attributes:
        models: the models that have it, for --help.
        boxes: the code of a box: CENTRES, GRID, DISTANCES, CORNERS or DELTAS.
        iou: of NMS, as the project evaluates its models.
        box_columns: the number of columns of a box's code.
        objectness: a column behind the box multiplies the class scores.
        boxes_first: the box's columns come before the class scores.
        columns_first: the output is [N,columns,boxes], else [N,boxes,columns].
        strides: of the levels, of codes that are relative to cells.
        centre: of a cell, in cells.
        bgr: the network takes blue, green, red.
        mean, std: of each channel in the network's order, for pixels of 0 to 255.
        stretches: the image is resized to the input without keeping its aspect; else it is letterboxed.
        fill: the RGB colour of the letterbox.
        otherwise: what the project does with an image that effedge places top-left; empty: the same.
        marks: parts of weights' names that only such models have.
        apart: scores and boxes are outputs of their own, of all levels together or for each.
        roots: a score is the root of its product with the objectness.
        priors: the rule for the boxes that DELTAS are relative to, of PRIORS in priors.py; empty: it is unknown, so the
            network has to decode its boxes.
        variances: what DELTAS of centres and of sizes are multiplied with.
        background: scores are a softmax with the background first; else a sigmoid.
        labels: the classes' names, where all models of the kind have the same.
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
    stretches: bool = False
    fill: tuple[int, int, int] = (114, 114, 114)
    otherwise: str = "centres"
    marks: tuple[str, ...] = ()
    apart: bool = False
    roots: bool = False
    priors: str = ""
    variances: tuple[float, float] = (1.0, 1.0)
    background: bool = False
    labels: tuple[str, ...] = ()

    def columns(self, classes: int) -> int:
        """Returns the number of columns of a model with so many classes."""
        if self.boxes == CORNERS:
            return 6
        return self.box_columns + self.objectness + classes

    def score_columns(self, classes: int) -> tuple[int, ...]:
        """Returns the possible numbers of columns of an output of scores alone.

        torchvision counts the background among a RetinaNet's classes: its column is never trained.
        """
        if self.boxes != DELTAS:
            return (classes,)
        return (classes + 1,) if self.background else (classes, classes + 1)

    def cells(self, height: int, width: int) -> int:
        """Returns the number of cells of all levels together."""
        return sum(-(-height // stride) * -(-width // stride) for stride in self.strides)


def ssd(
    models: str,
    iou: float,
    mean: tuple[float, float, float],
    deviation: float,
    priors: str = "",
    marks: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
) -> Head:
    """Makes the row of an SSD: a softmax with the background, variances of 0.1 and 0.2, and RGB stretched to the
    input."""
    return Head(
        models, DELTAS, iou, apart=True, background=True, variances=(0.1, 0.2), mean=mean, std=(deviation,) * 3,
        stretches=True, otherwise="", priors=priors, marks=marks, labels=labels,
    )  # fmt: skip


def retinanet(
    models: str,
    priors: str,
    bgr: bool = False,
    mean: tuple[float, float, float] = IMAGENET_RGB[0],
    std: tuple[float, float, float] = IMAGENET_RGB[1],
    marks: tuple[str, ...] = (),
) -> Head:
    """Makes the row of a RetinaNet, which is padded with 0 behind the normalization: with ImageNet's mean colour."""
    return Head(
        models, DELTAS, 0.5, apart=True, strides=(8, 16, 32, 64, 128), bgr=bgr, mean=mean, std=std,
        fill=(124, 116, 104), otherwise="", priors=priors, marks=marks,
    )  # fmt: skip


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
        mean=IMAGENET_BGR[0], std=IMAGENET_BGR[1], stretches=True, otherwise="",
    ),
    "yunet": Head(
        "YuNet, the face detector of OpenCV", GRID, 0.45, objectness=True, apart=True, roots=True, bgr=True, std=ONES,
        fill=(0, 0, 0), otherwise="", labels=("face",),
    ),
    "ultraface": ssd(
        "Ultra-Light-Fast-Generic-Face-Detector-1MB", 0.3, (127.0,) * 3, 128.0, priors="ultraface", labels=("face",),
    ),
    "ssd": ssd(
        "SSDs of pytorch-ssd and jetson-inference", 0.45, (127.0,) * 3, 128.0, marks=("classification_headers.",),
    ),
    "ssd300": ssd(
        "torchvision's SSD300", 0.45, (123.0, 117.0, 104.0), 1.0, priors="ssd300", marks=("classification_head.",),
    ),
    "ssdlite": ssd(
        "torchvision's SSDLite", 0.55, (127.5,) * 3, 127.5, priors="ssdlite", marks=("classification_head.",),
    ),
    "retinanet": retinanet("torchvision's RetinaNet", "retinanet-torchvision", marks=("classification_head.",)),
    "retinanet-mmdet": retinanet(
        "MMDetection's RetinaNet", "retinanet-mmdet", marks=("bbox_head.retina_cls.",),
    ),
    "retinanet-detectron2": retinanet(
        "Detectron2's RetinaNet", "retinanet-detectron2", bgr=True, mean=IMAGENET_BGR[0], std=ONES,
        marks=("head.cls_score.",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ClassifierHead:
    """A way to make a classifier's numbers of pixels of 0 to 255.

    Attributes:
        models: the models that have it, for --help.
        mean, std, bgr: as a Head's.
    """

    models: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


CLASSIFIERS = {
    "classifier": ClassifierHead("classifiers on ImageNet's mean and deviation: torchvision, timm", *IMAGENET_RGB),
    "classifier-half": ClassifierHead(
        "classifiers on -1 to 1: Keras' MobileNets", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
    ),
    "classifier-unit": ClassifierHead("classifiers on 0 to 1: YOLOv8-cls", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}
ALL_HEADS: dict[str, Head | ClassifierHead] = {**HEADS, **CLASSIFIERS}
HEADS_HELP = "; ".join(f"{name} ({head.models})" for name, head in ALL_HEADS.items())


def likely_head(
    size: tuple[int, int], shapes: dict[str, tuple[int | str, ...] | None], weights: set[str]
) -> str | None:
    """Returns the name of the head that a model has, by its shapes and its weights' names; None: they leave it open.

    A model for poses or turned boxes has the shape of a detector with more classes.

    Args:
        size: (height, width) of the model's input.
        shapes: of its outputs, by name; None: unknown.
    """
    known = [shape for shape in shapes.values() if shape is not None]
    marked = {name for name, head in HEADS.items() if any(mark in weight for mark in head.marks for weight in weights)}
    if len(known) != len(shapes) or not known:
        return None
    if is_yunet(size, known):
        return "yunet"
    apart = likely_apart(size, known, marked) if len(known) > 1 else None
    if apart is not None:
        return apart
    cells = HEADS["yolov8"].cells(*size)
    if any(len(shape) != 3 for shape in known) or len({shape[1:] for shape in known}) != 1:
        return None
    _, first, second = known[0]
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    if "yolox" in marked and first == HEADS["yolox"].cells(*size):
        return "yolox"
    if (first, second) == (300, 6):
        return "yolov10"
    if first == 3 * cells and second > 5:
        return "yolov5"
    return "yolov8" if second == cells and 4 < first < second else None


def is_yunet(size: tuple[int, int], shapes: list[tuple[int | str, ...]]) -> bool:
    """Tells if a model has, for each level, two outputs of one column and one of boxes, beside those of key points."""
    head = HEADS["yunet"]
    expected = sorted(
        (-(-size[0] // stride) * -(-size[1] // stride), columns) for stride in head.strides for columns in (1, 1, 4)
    )
    rows = [shape[1:] for shape in shapes if len(shape) == 3 and shape[2] in (1, 4)]
    return sorted((int(count), int(columns)) for count, columns in rows if isinstance(count, int)) == expected


def likely_apart(size: tuple[int, int], shapes: list[tuple[int | str, ...]], marked: set[str]) -> str | None:
    """Returns the head of a model with scores and boxes apart: Ultra-Light-Fast by the number of its boxes, which no
    other rule has, the others by their weights' names too."""
    boxes = {shape[1] for shape in shapes if len(shape) == 3 and shape[2] == 4}
    maps = {shape[1] for shape in shapes if len(shape) == 4}
    for name, head in HEADS.items():
        if head.boxes != DELTAS or (name != "ultraface" and name not in marked):
            continue
        count = sum(len(level.boxes) for level in PRIORS[head.priors](size)) if head.priors else 0
        if boxes and len(shapes) == 2 and count in (0, *boxes):
            return name
        if name.startswith("retinanet") and ANCHORS_PER_CELL * 4 in maps and len(shapes) == 2 * len(head.strides):
            return name
    return None
