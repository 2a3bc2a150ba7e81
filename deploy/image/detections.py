"""Holds the detections of an image as a value: it is indexed, compared, printed, drawn and converted."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union, overload

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.drawable import Drawable, drawing
from effedge.deploy.image.indexing import Indices, row_numbers, set_columns
from effedge.deploy.image.records import Record

LINES_SHOWN = 20


class Detection(NamedTuple):
    """A detection: its box is (x0, y0, x1, y1) in the image's pixels, its score a probability."""

    box: Tuple[float, float, float, float]
    score: float
    class_id: int
    label: str


@dataclass(frozen=True, eq=False, repr=False)
class Detections(Drawable):
    """The detections of one image, best score first.

    >>> detections = Detections([[10, 20, 30, 40], [50, 10, 90, 70]], [0.9, 0.6], [7, 3], ["seven", "three"])
    >>> detections
    2 detections
      seven 0.90 at 10,20 to 30,40
      three 0.60 at 50,10 to 90,70
    >>> detections[0].label
    'seven'
    >>> len(detections[detections.scores > 0.5]), len(detections[:1])
    (2, 1)
    >>> for box, score, class_id, label in detections:
    ...     print(label, box)
    seven (10.0, 20.0, 30.0, 40.0)
    three (50.0, 10.0, 90.0, 70.0)

    Attributes:
        boxes: float32 [n,4] xyxy, in pixels of the image as it was given, within the image.
        scores: float32 [n], probabilities.
        classes: int64 [n], the class ids.
        labels: the n classes' labels.
        source: the path that the image was read from; None if the image was in memory.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    labels: List[str]
    source: Optional[Path] = None

    def __post_init__(self) -> None:
        """Converts lists to arrays. Raises UserError if the numbers of boxes, scores, classes and labels differ."""
        columns: Dict[str, Any] = {
            "boxes": np.asarray(self.boxes, np.float32).reshape(-1, 4),
            "scores": np.asarray(self.scores, np.float32),
            "classes": np.asarray(self.classes, np.int64),
            "labels": list(self.labels),
        }
        set_columns(self, "detections of {} were", columns)

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, key: int) -> Detection: ...

    @overload
    def __getitem__(self, key: Indices) -> "Detections": ...

    def __getitem__(self, key: Union[int, Indices]) -> Union[Detection, "Detections"]:
        """Returns one detection of an index; the Detections of a slice, a mask (bool [n]) or an array of indices.

        Raises IndexError for an index that is not there, and a mask of another length.
        """
        rows = row_numbers(key, len(self))
        if isinstance(rows, int):
            x0, y0, x1, y1 = self.boxes[rows].tolist()
            return Detection((x0, y0, x1, y1), float(self.scores[rows]), int(self.classes[rows]), self.labels[rows])
        labels = [self.labels[row] for row in rows.tolist()]
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows], labels, self.source)

    def __iter__(self) -> Iterator[Detection]:
        # By lists: row by row NumPy takes ten times as long.
        columns = zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), self.labels)
        return (Detection((x0, y0, x1, y1), *rest) for (x0, y0, x1, y1), *rest in columns)

    def __eq__(self, other: object) -> bool:
        """Compares boxes, scores, classes and labels; `source` does not count."""
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.classes, other.classes)
            and self.labels == other.labels
        )

    def __repr__(self) -> str:
        count = len(self)
        lines = [f"{count or 'no'} detection{'' if count == 1 else 's'}"]
        for (x0, y0, x1, y1), score, _, label in self[:LINES_SHOWN]:
            lines.append(f"  {label} {score:.2f} at {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}")
        return "\n".join(lines + ([f"  and {count - LINES_SHOWN} more"] if count > LINES_SHOWN else []))

    def drawn_on(self, pixels: np.ndarray) -> np.ndarray:
        """Returns a copy of an image, RGB uint8 [H,W,3], with the boxes, labels and scores drawn in."""
        return drawing().draw_detections(pixels, self)

    def to_dict(self) -> Record:
        """Returns the detections as JSON values, as `effedge predict --json` writes them.

        Boxes are rounded to 1/100 pixel, scores to six decimals.

        >>> Detections([[10, 20, 30, 40]], [0.5], [7], ["seven"]).to_dict()
        {'detections': [{'box': [10.0, 20.0, 30.0, 40.0], 'score': 0.5, 'class_id': 7, 'label': 'seven'}]}
        """
        return {
            "detections": [
                {
                    "box": [round(side, 2) for side in detection.box],
                    "score": round(detection.score, 6),
                    "class_id": detection.class_id,
                    "label": detection.label,
                }
                for detection in self
            ]
        }

    def to_coco(self, image_id: int, categories: Optional[Mapping[str, int]] = None) -> List[Dict[str, Any]]:
        """Returns the detections as entries of COCO's results file (cocodataset.org, format-results).

        Args:
            image_id: the image's id in the annotations.
            categories: the category's id for each label, as the annotations have them; default: the class id plus 1,
                which is COCO's own for the models of its 90 classes.

        Raises UserError for a label that `categories` lacks.

        >>> Detections([[10, 20, 30, 40]], [0.5], [7], ["seven"]).to_coco(12, {"seven": 70})
        [{'image_id': 12, 'category_id': 70, 'bbox': [10.0, 20.0, 20.0, 20.0], 'score': 0.5}]
        """
        missing = [] if categories is None else [label for label in self.labels if label not in categories]
        if missing:
            raise UserError(f"categories has no id for '{missing[0]}': expected one for each label")
        return [
            {
                "image_id": image_id,
                "category_id": class_id + 1 if categories is None else categories[label],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
            for (x0, y0, x1, y1), score, class_id, label in self
        ]

    def to_supervision(self) -> Any:
        """Returns the detections as `supervision.Detections`, with the labels as its data "class_name".

        Raises UserError where the package supervision is not installed.
        """
        try:
            supervision: Any = importlib.import_module("supervision")
        except ImportError as error:
            raise UserError("to_supervision needs the package supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.astype(int),
            data={"class_name": np.array(self.labels, dtype=str)},
        )
