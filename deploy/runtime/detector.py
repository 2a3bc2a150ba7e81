"""Object detection with an engine folder: pictures in, boxes in each picture's own pixels out.

After the engine: candidates below the threshold go; boxes are clipped to the part of the letterbox that the picture
fills, and those left without area go; NMS; then the boxes are scaled to the picture.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Union

import numpy as np

from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.image.preprocess import Prepared, boxes_to_picture
from effedge.deploy.native.letterbox_nms.library import native
from effedge.deploy.runtime.engine import Engine, Picture, check_several


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best score first.

    boxes: float32 [n,4] xyxy in the picture's own pixels, within the picture.
    scores: float32 [n], probabilities.
    class_ids: int64 [n].
    names: the n classes' labels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    names: List[str]

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """A detector's engine folder, ready to run.

    >>> detector = Detector("build/d0-digits/int8-cpu", threshold=0.3)  # doctest: +SKIP
    >>> [detections] = detector(["photo.jpg"])  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: Union[str, Path],
        threshold: float = 0.05,
        iou: float = 0.5,
        max_detections: int = 100,
        throughput: bool = False,
    ) -> None:
        """Load the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is no detector's.

        Args:
            threshold: the lowest score that is reported.
            iou: of two boxes of one class that overlap by more than this, the better stays.
            max_detections: at most so many a picture.
            throughput: more pictures a second, each of them later: the steps of several go on side by side.
        """
        self.take_engine(Engine(folder, "detection", throughput), threshold, iou, max_detections)
        self.engine.fuse(threshold=threshold, iou=iou, max_detections=max_detections)

    def take_engine(self, engine: Engine, threshold: float, iou: float, max_detections: int) -> None:
        """What `__init__` does with a loaded one."""
        self.engine = engine
        self.choose_with(threshold, iou, max_detections)

    def choose_with(self, threshold: float, iou: float = 0.5, max_detections: int = 100) -> None:
        """Set what of the engine's candidates is reported; as `__init__`."""
        steps = native()
        choose = choose_boxes if steps is None else steps.choose_boxes
        self.choose = partial(choose, threshold=threshold, iou=iou, max_detections=max_detections)

    @property
    def batch(self) -> int:
        """How many pictures the engine takes at once."""
        return self.engine.batch

    def __call__(self, images: Iterable[Picture]) -> Iterator[Detections]:
        """Yield the Detections of each image, in order. Images are paths or RGB uint8 [H,W,3], of any sizes, and are
        read when they are needed. Raises UserError for one that cannot be read."""
        check_several(images)
        return self.engine.run(images, self.finish)

    def finish(self, prepared: Prepared, outputs: Dict[str, np.ndarray]) -> Detections:
        """The engine's candidates for one picture -> what is reported."""
        boxes, scores, class_ids = outputs["boxes"], outputs["scores"], outputs["classes"]
        self.engine.check_finite(boxes, scores)
        if "kept" in outputs:  # the backend chose too
            kept = outputs["kept"][outputs["kept"] >= 0]
        else:
            kept = self.choose(boxes, scores, class_ids, prepared.resized)
        height, width = prepared.resized
        chosen = class_ids[kept].astype(np.int64)
        clipped = np.clip(boxes[kept], 0, np.array([width, height, width, height], np.float32))
        return Detections(
            boxes=boxes_to_picture(clipped, prepared),
            scores=scores[kept].astype(np.float32),
            class_ids=chosen,
            names=[self.engine.name(class_id) for class_id in chosen.tolist()],
        )
