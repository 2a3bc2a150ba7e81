"""Types the result of an image as a record of --json, and writes it as a line."""

from collections import Counter
from typing import TYPE_CHECKING, List, TypedDict, Union

from effedge.deploy.common.messages import printable

if TYPE_CHECKING:
    from effedge.deploy.image.classification import Classification
    from effedge.deploy.image.detections import Detections
    from effedge.deploy.runtime.classifier import Classifier
    from effedge.deploy.runtime.detector import Detector

    Model = Union[Detector, Classifier]
    Result = Union[Detections, Classification]


class DetectionRecord(TypedDict):
    """A detection: its box is xyxy in the image's pixels."""

    box: List[float]
    score: float
    class_id: int
    label: str


class ClassRecord(TypedDict):
    """A class and its probability."""

    class_id: int
    label: str
    score: float


class Record(TypedDict, total=False):
    """The result of a detector or of a classifier."""

    detections: List[DetectionRecord]
    classes: List[ClassRecord]


class ImageRecord(Record):
    """The result of an image of a file."""

    image: str


def summary(record: Record) -> str:
    """Returns a record in a few words: "2 x cat, 1 x dog", or a classifier's best class and its probability."""
    if "classes" in record:
        best = record["classes"][0]
        return f"{printable(best['label'])} ({best['score']:.2f})"
    counts = Counter(detection["label"] for detection in record["detections"])
    return ", ".join(f"{count} x {printable(label)}" for label, count in counts.most_common()) or "nothing"
