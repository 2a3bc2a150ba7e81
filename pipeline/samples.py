"""Training samples by index, and how they are put into batches.

A sample follows from its index alone, so a run that was killed goes on with exactly the pictures that it would have
seen, and two runs with one seed see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.anchors import make_anchors
from pipeline.digits import Picture, draw_crop, draw_picture
from pipeline.matching import Matches, match


class DetectionBatch(NamedTuple):
    images: Tensor  # uint8 [N,H,W,3]
    picture: Tensor  # int64 [p], which picture of the batch each positive anchor is in
    anchor: Tensor  # int64 [p]
    class_ids: Tensor  # int64 [p]
    codes: Tensor  # float32 [p,4]


class ClassificationBatch(NamedTuple):
    images: Tensor  # uint8 [N,H,W,3]
    class_ids: Tensor  # int64 [N]


class Samples(Dataset):
    """Samples `start` to `stop` of a function of the index."""

    def __init__(self, draw: Callable[[int], Any], start: int, stop: int):
        self.draw, self.start, self.stop = draw, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Any:
        return self.draw(self.start + index)


def digit_pictures(size: int, seed: int) -> Callable[[int], Picture]:
    """Drawn pictures of the digits' training split, [size,size]."""
    return lambda index: draw_picture("train", index, size, size, seed)


def digit_crops(size: int, seed: int) -> Callable[[int], tuple[np.ndarray, int]]:
    """Drawn digit crops of the training split, [size,size]."""
    return lambda index: draw_crop("train", index, size, seed)


def matched(pictures: Callable[[int], Picture], size: int, levels: int, anchor_scale: float) -> Callable[[int], Any]:
    """Pictures by index -> (image, matches to the model's anchors) by index."""
    anchors = make_anchors((size, size), levels, anchor_scale)

    def draw(index: int) -> tuple[np.ndarray, Matches]:
        image, boxes, class_ids = pictures(index)
        return image, match(boxes, class_ids, anchors)

    return draw


def collate_detection(samples: Sequence[tuple[np.ndarray, Matches]]) -> DetectionBatch:
    matches = [found for _, found in samples]
    return DetectionBatch(
        torch.from_numpy(np.stack([image for image, _ in samples])),
        torch.from_numpy(np.repeat(np.arange(len(matches)), [len(found.anchors) for found in matches])),
        torch.from_numpy(np.concatenate([found.anchors for found in matches])),
        torch.from_numpy(np.concatenate([found.class_ids for found in matches])),
        torch.from_numpy(np.concatenate([found.codes for found in matches])),
    )


def collate_classification(samples: Sequence[tuple[np.ndarray, int]]) -> ClassificationBatch:
    images, class_ids = zip(*samples, strict=True)
    return ClassificationBatch(torch.from_numpy(np.stack(images)), torch.tensor(class_ids))
