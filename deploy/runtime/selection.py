"""Says which of a detector's candidates are reported: the defaults, and the checks of what a user asks for.

Nothing is imported that takes time, so that a command's help can name the defaults.
"""

from numbers import Integral, Real
from typing import Iterable, List, NamedTuple, Optional, Sequence, Union

from effedge.deploy.common.cli import UserError, choose

THRESHOLD, IOU, MAX_DETECTIONS = 0.3, 0.5, 100

ClassName = Union[str, int]  # a label, or a class id


class Selection(NamedTuple):
    """The detections that are reported.

    threshold: the lowest score, 0 to 1.
    iou: of two boxes of one class that overlap by more than this, only the better is reported; None: the model's own.
    max_detections: the largest number in an image.
    classes: the ids of the classes that are reported; None: all.
    class_agnostic: boxes of different classes suppress each other too.
    """

    threshold: float = THRESHOLD
    iou: Optional[float] = None
    max_detections: int = MAX_DETECTIONS
    classes: Optional[Sequence[int]] = None
    class_agnostic: bool = False

    def check(self) -> None:
        """Raises UserError for a value out of its range."""
        for name, value in (("threshold", self.threshold), ("iou", IOU if self.iou is None else self.iou)):
            if not (isinstance(value, Real) and 0 <= value <= 1):  # NaN neither
                raise UserError(f"{name}={value!r} was given, expected a number from 0 to 1")
        count = self.max_detections
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise UserError(f"max_detections={count!r} was given, expected a whole number from 1 on")


def class_ids(classes: Union[None, ClassName, Iterable[ClassName]], labels: Sequence[str]) -> Optional[List[int]]:
    """Returns the ids, sorted, of classes that are named by their labels or ids; None for None.

    A text is a label, or an id where it is no label. Raises UserError for a class that does not exist, and for none.

    >>> class_ids(["dog", 0], ["cat", "dog"])
    [0, 1]
    """
    if classes is None:
        return None
    named: List[ClassName] = [classes] if isinstance(classes, (str, int)) else list(classes)
    if not named:
        raise UserError("no classes were given: leave classes out for all of them")
    ids = set()
    for name in named:
        if isinstance(name, str) and name in labels:
            ids |= {number for number, label in enumerate(labels) if label == name}
        elif isinstance(name, str) and not name.isdecimal():
            choose("class", name, labels)
        elif isinstance(name, (str, int, Integral)) and not isinstance(name, bool) and 0 <= int(name) < len(labels):
            ids.add(int(name))
        else:
            raise UserError(f"class {name!r} was given, expected a label or an id from 0 to {len(labels) - 1}")
    return sorted(ids)
