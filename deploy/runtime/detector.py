"""Detects objects with an engine folder: images in, boxes in each image's own pixels out.

After the engine, candidates below the threshold are dropped, and those of classes that are not asked for; boxes are
clipped to the part of the letterbox that the image fills, and those without area are dropped; NMS follows; then the
boxes are scaled to the image.
"""

from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple, Union, overload

import numpy as np

from effedge.deploy.image.detections import Detections
from effedge.deploy.image.inputs import RGB, ImageLike
from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.image.preprocess import Prepared, boxes_to_image
from effedge.deploy.native.letterbox_nms.library import load_letterbox_nms
from effedge.deploy.runtime.engine import Engine, Outputs
from effedge.deploy.runtime.selection import MAX_DETECTIONS, THRESHOLD, ClassName, Selection, class_ids
from effedge.deploy.runtime.signature import Keys

NEVER = -1.0  # a score below every threshold


class Detector:
    """A detector's engine folder, ready to run.

    >>> detector = Detector("build/d0-digits/int8-cpu")
    >>> detections = detector("photo.png")
    >>> detections
    2 detections
      7 0.90 at 40,20 to 120,100
      3 0.70 at 160,60 to 256,128
    >>> detections.boxes[0].tolist()
    [40.0, 20.0, 120.0, 100.0]

    A list of images gives a list of Detections, computed in batches where the engine has them:

    >>> [len(each) for each in detector(["photo.png", "photo.png"])]
    [2, 2]
    >>> Detector("build/d0-digits/int8-cpu", threshold=0.5, classes=["3"])("photo.png")
    1 detection
      3 0.70 at 160,60 to 256,128
    """

    def __init__(
        self,
        folder: Union[str, Path],
        threshold: float = THRESHOLD,
        iou: Optional[float] = None,
        max_detections: int = MAX_DETECTIONS,
        throughput: bool = False,
        classes: Union[None, ClassName, Iterable[ClassName]] = None,
        class_agnostic: bool = False,
        trusted_keys: Optional[Keys] = None,
    ) -> None:
        """Loads the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is no detector's, and
        for an option out of its range.

        Args:
            threshold: the lowest score that is reported, 0 to 1.
            iou: of two boxes of one class that overlap by more than this, only the better is reported; default: 0.5,
                or what the model's spec says.
            max_detections: the largest number of detections in an image.
            throughput: process several images in parallel: more images a second, each with a higher latency.
            classes: report only these classes, given by their labels or ids; default: all.
            class_agnostic: of two boxes that overlap by more than `iou` only the better is reported, whatever their
                classes are: one object is then reported once, as its best class.
            trusted_keys: files of public keys, one of which must have signed the engine (`effedge sign`).
        """
        Selection(threshold, iou, max_detections).check()
        engine = Engine(folder, "detection", throughput, trusted_keys)
        wanted = class_ids(classes, engine.all_labels())
        self.set_engine(engine, Selection(threshold, iou, max_detections, wanted, class_agnostic))
        self.engine.fuse(threshold=threshold, iou=engine.iou if iou is None else iou, max_detections=max_detections)

    def set_engine(self, engine: Engine, selection: Selection) -> None:
        """Sets the engine and the selection of its candidates, as `__init__` does after loading the engine."""
        self.engine, self.selection = engine, selection
        library = load_letterbox_nms()
        self.choose_boxes = choose_boxes if library is None else library.choose_boxes

    @property
    def batch(self) -> int:
        """The largest number of images that one run of the engine takes."""
        return self.engine.max_batch

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence too
        self, images: ImageLike, color: str = RGB
    ) -> Detections: ...

    @overload
    def __call__(self, images: Sequence[ImageLike], color: str = RGB) -> List[Detections]: ...

    def __call__(
        self, images: Union[ImageLike, Sequence[ImageLike]], color: str = RGB
    ) -> Union[Detections, List[Detections]]:
        """Returns the Detections of an image; for a list or tuple of images the list of theirs, in order.

        Args:
            images: of any sizes, each a path, the bytes of an image's file, Pillow's image, an array (uint8, grey
                [H,W], RGB [H,W,3] or RGBA [H,W,4]), or a PyTorch tensor ([3,H,W], uint8 or 0 to 1).
            color: the order of an array's or a tensor's channels: "rgb", or "bgr" as OpenCV has it.

        Raises UserError for an image that cannot be read.
        """
        return self.engine.run_call(images, self.finish, color)

    def stream(self, images: Iterable[ImageLike], color: str = RGB) -> Iterator[Detections]:
        """Yields the Detections of each image of any iterable, in order.

        Images are as `__call__` takes them, and are taken when they are needed, a batch at a time.

        >>> detector = Detector("build/d0-digits/int8-cpu")
        >>> for detections in detector.stream(path for path in ["photo.png"]):
        ...     print(detections.source, len(detections))
        photo.png 2
        """
        return self.engine.run(images, self.finish, color)

    def finish(self, prepared: Prepared, outputs: Outputs, source: Optional[Path] = None) -> Detections:
        """Converts the engine's candidates for an image to the detections that are reported."""
        boxes, scores, candidate_ids = outputs["boxes"], outputs["scores"], outputs["classes"]
        self.engine.check_finite(boxes, scores)
        kept = self.choose(outputs, prepared.resized_size)
        height, width = prepared.resized_size
        kept_ids = candidate_ids[kept].astype(np.int64)
        clipped = np.clip(boxes[kept], 0, np.array([width, height, width, height], np.float32))
        return Detections(
            boxes=boxes_to_image(clipped, prepared),
            scores=scores[kept].astype(np.float32),
            classes=kept_ids,
            labels=[self.engine.label(class_id) for class_id in kept_ids.tolist()],
            source=source,
        )

    def choose(self, outputs: Outputs, size: Tuple[int, int]) -> np.ndarray:
        """Returns the indices of the candidates that are reported, best first; `size` is that of
        `effedge.deploy.image.nms.choose_boxes`."""
        threshold, own_iou, most, wanted, class_agnostic = self.selection
        iou = self.engine.iou if own_iou is None else own_iou
        if "kept" in outputs and wanted is None and not class_agnostic:  # a fused detector has run NMS: class by class
            return outputs["kept"][outputs["kept"] >= 0]
        scores, candidate_ids = outputs["scores"], outputs["classes"]
        if wanted is not None:  # before NMS: a class that is not reported suppresses nothing, and fills no place
            scores = np.where(np.isin(candidate_ids, wanted), scores, np.float32(NEVER))
        if class_agnostic:
            candidate_ids = np.zeros_like(candidate_ids)
        return self.choose_boxes(outputs["boxes"], scores, candidate_ids, size, threshold, iou, most)
