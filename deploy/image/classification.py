"""Holds the best classes of an image as a value: it is indexed, compared, printed, drawn and converted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Union, overload

import numpy as np

from effedge.deploy.image.drawable import Drawable, drawing
from effedge.deploy.image.indexing import Indices, row_numbers, set_columns
from effedge.deploy.image.records import Record


class ClassScore(NamedTuple):
    """A class of an image; `score` is its softmax probability."""

    class_id: int
    label: str
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Drawable):
    """The best classes of one image, best first.

    >>> best = Classification([7, 1], ["seven", "one"], [0.9, 0.06])
    >>> best
    seven 0.90, one 0.06
    >>> best[0].label
    'seven'
    >>> [label for class_id, label, score in best]
    ['seven', 'one']

    Attributes:
        classes: int64 [k], the class ids.
        labels: the k classes' labels.
        scores: float32 [k], softmax probabilities.
        source: the path that the image was read from; None if the image was in memory.
    """

    classes: np.ndarray
    labels: List[str]
    scores: np.ndarray
    source: Optional[Path] = None

    def __post_init__(self) -> None:
        """Converts lists to arrays. Raises UserError if the numbers of classes, labels and scores differ."""
        columns: Dict[str, Any] = {
            "classes": np.asarray(self.classes, np.int64),
            "labels": list(self.labels),
            "scores": np.asarray(self.scores, np.float32),
        }
        set_columns(self, "a classification of {} was", columns)

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, key: int) -> ClassScore: ...

    @overload
    def __getitem__(self, key: Indices) -> "Classification": ...

    def __getitem__(self, key: Union[int, Indices]) -> Union[ClassScore, "Classification"]:
        """Returns one class of an index; the Classification of a slice, a mask (bool [k]) or an array of indices.

        Raises IndexError for an index that is not there, and a mask of another length.
        """
        rows = row_numbers(key, len(self))
        if isinstance(rows, int):
            return ClassScore(int(self.classes[rows]), self.labels[rows], float(self.scores[rows]))
        labels = [self.labels[row] for row in rows.tolist()]
        return Classification(self.classes[rows], labels, self.scores[rows], self.source)

    def __iter__(self) -> Iterator[ClassScore]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compares classes, labels and scores; `source` does not count."""
        if not isinstance(other, Classification):
            return NotImplemented
        return (
            np.array_equal(self.classes, other.classes)
            and np.array_equal(self.scores, other.scores)
            and self.labels == other.labels
        )

    def __repr__(self) -> str:
        return ", ".join(f"{label} {score:.2f}" for _, label, score in self) or "no classes"

    def drawn_on(self, pixels: np.ndarray) -> np.ndarray:
        """Returns a copy of an image, RGB uint8 [H,W,3], with the classes and scores written into its corner."""
        return drawing().draw_classes(pixels, self)

    def to_dict(self) -> Record:
        """Returns the classes as JSON values, as `effedge predict --json` writes them: scores to six decimals.

        >>> Classification([7], ["seven"], [0.5]).to_dict()
        {'classes': [{'class_id': 7, 'label': 'seven', 'score': 0.5}]}
        """
        return {
            "classes": [
                {"class_id": class_id, "label": label, "score": round(score, 6)} for class_id, label, score in self
            ]
        }
