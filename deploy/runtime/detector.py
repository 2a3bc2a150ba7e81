"""Detects objects with an engine folder: images in, boxes in each image's own pixels out.

After the engine, candidates below the threshold are dropped; boxes are clipped to the part of the letterbox that the
image fills, and those without area are dropped; NMS follows; then the boxes are scaled to the image.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterable, Iterator, List, Union

import numpy as np

from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.image.preprocess import Prepared, boxes_to_image
from effedge.deploy.native.letterbox_nms.library import load_letterbox_nms
from effedge.deploy.runtime.engine import Engine, ImageLike, Outputs, check_sequence


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best score first.

    boxes: float32 [n,4] xyxy in the image's own pixels, within the image.
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
        """Loads the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is no detector's.

        Args:
            threshold: the lowest score that is reported.
            iou: of two boxes of one class that overlap by more than this, only the better is reported.
            max_detections: the largest number of detections in an image.
            throughput: process several images in parallel: more images a second, each with a higher latency.
        """
        self.set_engine(Engine(folder, "detection", throughput), threshold, iou, max_detections)
        self.engine.fuse(threshold=threshold, iou=iou, max_detections=max_detections)

    def set_engine(self, engine: Engine, threshold: float, iou: float, max_detections: int) -> None:
        """Sets the engine and the selection of its candidates, as `__init__` does after loading the engine."""
        self.engine = engine
        self.set_selection(threshold, iou, max_detections)

    def set_selection(self, threshold: float, iou: float = 0.5, max_detections: int = 100) -> None:
        """Sets which of the engine's candidates are reported; the parameters are those of `__init__`."""
        library = load_letterbox_nms()
        choose = choose_boxes if library is None else library.choose_boxes
        self.choose = partial(choose, threshold=threshold, iou=iou, max_detections=max_detections)

    @property
    def batch(self) -> int:
        """The largest number of images that one run of the engine takes."""
        return self.engine.max_batch

    def __call__(self, images: Iterable[ImageLike]) -> Iterator[Detections]:
        """Yields the Detections of each image, in order.

        Images are paths or RGB uint8 [H,W,3], of any sizes, and are read when they are needed. Raises UserError for an
        image that cannot be read.
        """
        check_sequence(images)
        return self.engine.run(images, self.finish)

    def finish(self, prepared: Prepared, outputs: Outputs) -> Detections:
        """Converts the engine's candidates for an image to the detections that are reported."""
        boxes, scores, class_ids = outputs["boxes"], outputs["scores"], outputs["classes"]
        self.engine.check_finite(boxes, scores)
        if "kept" in outputs:  # a fused detector has run NMS
            kept = outputs["kept"][outputs["kept"] >= 0]
        else:
            kept = self.choose(boxes, scores, class_ids, prepared.resized_size)
        height, width = prepared.resized_size
        kept_ids = class_ids[kept].astype(np.int64)
        clipped = np.clip(boxes[kept], 0, np.array([width, height, width, height], np.float32))
        return Detections(
            boxes=boxes_to_image(clipped, prepared),
            scores=scores[kept].astype(np.float32),
            class_ids=kept_ids,
            names=[self.engine.label(class_id) for class_id in kept_ids.tolist()],
        )
