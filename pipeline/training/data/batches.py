"""Training samples by index, and how they are put into batches.

A sample follows from its index (and the seed) alone, so a run that was killed goes on with exactly the pictures that it
would have seen, and two runs with one seed see the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import FILTERS
from effedge.pipeline.datasets.digits import SHAPES, Picture, draw_crop, draw_picture
from effedge.pipeline.datasets.records import Record
from effedge.pipeline.models.anchors import make_anchors
from effedge.pipeline.training.data.augment import Variety, random_crop, recolour, scale_jitter
from effedge.pipeline.training.data.randaugment import randaugment
from effedge.pipeline.training.matching import Matches, match
from effedge.pipeline.weights.published import Preprocessing

# What a generator is for, so that no two draw the same numbers from one seed.
ORDER, AUGMENTATION = 0, 1

NO_BOXES = np.zeros((0, 4), np.float32)
DIGIT_JITTER = (0.7, 1.0)  # never larger: a digit cut by the edge may be another's likeness


class DetectionBatch(NamedTuple):
    images: Tensor  # uint8 [N,H,W,3]
    picture: Tensor  # int64 [p], which picture of the batch each positive anchor is in
    anchor: Tensor  # int64 [p]
    class_ids: Tensor  # int64 [p]
    codes: Tensor  # float32 [p,4]


class ClassificationBatch(NamedTuple):
    images: Tensor  # uint8 [N,H,W,3]
    class_ids: Tensor  # int64 [N]


def dealt(draw: Callable[[int], Any], batch: int, rank: int, processes: int) -> Callable[[int], Any]:
    """Of each `batch` samples of a function of the index, the share of one of several processes, one after another."""
    share = batch // processes
    return lambda index: draw(index // share * batch + rank * share + index % share)


class Samples(Dataset):
    """Samples `start` to `stop` of a function of the index."""

    def __init__(self, draw: Callable[[int], Any], start: int, stop: int):
        self.draw, self.start, self.stop = draw, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Any:
        """The sample, or the UserError that it met: raised in a worker it would arrive as a traceback's text."""
        try:
            return self.draw(self.start + index)
        except UserError as error:
            return error


def or_error(collate: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """`collate`, except that a batch with a UserError in it becomes that error."""

    def first_error_or_batch(samples: Sequence[Any]) -> Any:
        error = next((sample for sample in samples if isinstance(sample, UserError)), None)
        return collate(samples) if error is None else error

    return first_error_or_batch


def digit_pictures(size: int, seed: int, fill: Sequence[int]) -> Callable[[int], Picture]:
    """Drawn pictures of the digits' training split, of the written data set's shapes in turn, letterboxed as those will
    be, or smaller (scale 0.7 to 1): [size,size]."""

    def draw(index: int) -> Picture:
        height, width = (round(side * size / max(SHAPES[0])) for side in SHAPES[index % len(SHAPES)])
        image, boxes, class_ids = draw_picture("train", index, height, width, seed)
        random = np.random.default_rng([seed, AUGMENTATION, index])
        pixels, boxes, kept = scale_jitter(random, image, boxes, size, DIGIT_JITTER, fill)
        return Picture(pixels, boxes, class_ids[kept])

    return draw


def digit_crops(size: int, seed: int) -> Callable[[int], tuple[np.ndarray, int]]:
    """Drawn digit crops of the training split, [size,size]."""
    return lambda index: draw_crop("train", index, size, seed)


def shuffled(count: int, seed: int) -> Callable[[int], int]:
    """Sample index -> which of `count` records: every epoch of `count` samples is a permutation of its own."""

    @functools.lru_cache(maxsize=2)  # a batch may reach into the next epoch
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, ORDER, epoch]).permutation(count)

    return lambda index: int(order(index // count)[index % count])


def record_pictures(
    records: Sequence[Record], size: int, seed: int, variety: Variety, fill: Sequence[int]
) -> Callable[[int], Picture]:
    """Annotated pictures from the disk, shuffled and augmented, [size,size]. Ignored objects are not learnt."""
    which = shuffled(len(records), seed)

    def draw(index: int) -> Picture:
        random = np.random.default_rng([seed, AUGMENTATION, index])
        record = records[which(index)]
        image, learnt = open_image(record.path), ~record.ignored
        image, boxes = variety.place(random, image, record.boxes[learnt])
        pixels, boxes, kept = scale_jitter(random, image, boxes, size, variety.jitter, fill, variety.colours(random))
        return Picture(pixels, boxes, record.class_ids[learnt][kept])

    return draw


def record_crops(
    records: Sequence[Record], size: int, seed: int, variety: Variety, look: Preprocessing
) -> Callable[[int], tuple[np.ndarray, int]]:
    """Pictures of a class each from the disk, shuffled and augmented, [size,size]."""
    which, resample = shuffled(len(records), seed), FILTERS[look.interpolation]

    def draw(index: int) -> tuple[np.ndarray, int]:
        random = np.random.default_rng([seed, AUGMENTATION, index])
        record = records[which(index)]
        pixels = random_crop(random, open_image(record.path), size, resample)
        pixels, _ = variety.place(random, pixels, NO_BOXES)
        colours = variety.colours(random)
        pixels = pixels if colours is None else recolour(pixels, colours)
        if variety.randaugment is not None:
            pixels = randaugment(random, pixels, *variety.randaugment)
        return pixels, int(record.class_ids[0])

    return draw


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
