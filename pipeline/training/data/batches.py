"""Makes training samples by index, and collates them into batches.

A sample follows from its index and the seed alone. So a run that was killed goes on with exactly the images that it
would have seen, and two runs with one seed see the same images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import FILTERS, preparation
from effedge.pipeline.datasets.digits import SHAPES, LabelledImage, draw_crop, draw_image
from effedge.pipeline.datasets.records import Record
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.data.augment import Augmentation, random_crop, recolour, scale_jitter
from effedge.pipeline.training.data.autoaugment import autoaugment
from effedge.pipeline.training.data.randaugment import randaugment
from effedge.pipeline.training.losses import DetectionTargets
from effedge.pipeline.training.matching import Matches, match
from effedge.pipeline.weights.published import Preprocessing

# The purpose of a generator, so that no two generators draw the same numbers from one seed.
ORDER, AUGMENTATION = 0, 1

NO_BOXES = np.zeros((0, 4), np.float32)
DIGIT_JITTER = (0.7, 1.0)  # never larger: a digit cut by the edge may look like another digit

Sample = TypeVar("Sample")
DetectionSample = tuple[np.ndarray, Matches]  # image uint8 [H,W,3]
ClassificationSample = tuple[np.ndarray, int]  # image uint8 [H,W,3], class id


class DetectionBatch(NamedTuple):
    """Images, uint8 [N,H,W,3], and the targets of their p positive anchors (`DetectionTargets`)."""

    images: Tensor
    image_indices: Tensor  # int64 [p]
    anchor_indices: Tensor  # int64 [p]
    class_ids: Tensor  # int64 [p]
    codes: Tensor  # float32 [p,4]

    @property
    def targets(self) -> DetectionTargets:
        return DetectionTargets(*self[1:])


class ClassificationBatch(NamedTuple):
    images: Tensor  # uint8 [N,H,W,3]
    class_ids: Tensor  # int64 [N]


Batch = DetectionBatch | ClassificationBatch


def rank_share(draw: Callable[[int], Sample], batch: int, rank: int, world_size: int) -> Callable[[int], Sample]:
    """Selects from each `batch` samples of `draw` the consecutive share of one process among `world_size`."""
    share = batch // world_size
    return lambda index: draw(index // share * batch + rank * share + index % share)


class IndexedDataset(Dataset):
    """Samples `start` to `stop` of a function of the index."""

    def __init__(self, draw: Callable[[int], object], start: int, stop: int):
        self.draw, self.start, self.stop = draw, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> object:
        """Returns a sample, or the UserError that it met: raised in a worker, it would arrive as a traceback's text."""
        try:
            return self.draw(self.start + index)
        except UserError as error:
            return error


def pass_errors_on(collate: Callable[[Any], Batch]) -> Callable[[Sequence[object]], Batch | UserError]:
    """Wraps `collate` so that a batch with a UserError among its samples becomes the first such error."""

    def batch_or_error(samples: Sequence[object]) -> Batch | UserError:
        error = next((sample for sample in samples if isinstance(sample, UserError)), None)
        return collate(samples) if error is None else error

    return batch_or_error


def digit_images(size: Size, seed: int, fill: Sequence[int]) -> Callable[[int], LabelledImage]:
    """Draws images [*size,3] of the digits' training split.

    Their shapes are those of the written data set in turn. They are letterboxed as those images will be, or smaller
    (scale 0.7 to 1).
    """

    def draw(index: int) -> LabelledImage:
        height, width = (round(side * max(size) / max(SHAPES[0])) for side in SHAPES[index % len(SHAPES)])
        image, boxes, class_ids = draw_image("train", index, height, width, seed)
        random = np.random.default_rng([seed, AUGMENTATION, index])
        pixels, boxes, kept = scale_jitter(random, image, boxes, size, DIGIT_JITTER, fill)
        return LabelledImage(pixels, boxes, class_ids[kept])

    return draw


def digit_crops(size: int, seed: int) -> Callable[[int], ClassificationSample]:
    """Draws digit crops [size,size,3] of the training split."""
    return lambda index: draw_crop("train", index, size, seed)


def shuffled(count: int, seed: int) -> Callable[[int], int]:
    """Maps a sample index to one of `count` records; every epoch of `count` samples is a permutation of its own."""

    @functools.lru_cache(maxsize=2)  # a batch may reach into the next epoch
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, ORDER, epoch]).permutation(count)

    return lambda index: int(order(index // count)[index % count])


def record_images(
    records: Sequence[Record], size: Size, seed: int, augmentation: Augmentation, fill: Sequence[int]
) -> Callable[[int], LabelledImage]:
    """Reads annotated images from the disk, shuffled and augmented, [*size,3]. Ignored objects are left out."""
    record_index = shuffled(len(records), seed)

    def draw(index: int) -> LabelledImage:
        random = np.random.default_rng([seed, AUGMENTATION, index])
        record = records[record_index(index)]
        image, learnable = open_image(record.path), ~record.ignored
        image, boxes = augmentation.flip_and_rotate(random, image, record.boxes[learnable])
        colours = augmentation.draw_colour_matrix
        pixels, boxes, kept = scale_jitter(random, image, boxes, size, augmentation.jitter, fill, colours(random))
        return LabelledImage(pixels, boxes, record.class_ids[learnable][kept])

    return draw


def record_crops(
    records: Sequence[Record], size: Size, seed: int, augmentation: Augmentation, preprocessing: Preprocessing
) -> Callable[[int], ClassificationSample]:
    """Reads images with one class each from the disk, shuffled and augmented, [*size,3]."""
    record_index, resample = shuffled(len(records), seed), FILTERS[preprocessing.interpolation]
    prepare = preparation({"size": list(size), **preprocessing.input_spec()}) if augmentation.evaluation_crop else None

    def draw(index: int) -> ClassificationSample:
        random = np.random.default_rng([seed, AUGMENTATION, index])
        record = records[record_index(index)]
        image = open_image(record.path)
        pixels = random_crop(random, image, size, resample) if prepare is None else prepare(image).pixels
        pixels, _ = augmentation.flip_and_rotate(random, pixels, NO_BOXES)
        colours = augmentation.draw_colour_matrix(random)
        pixels = pixels if colours is None else recolour(pixels, colours)
        if augmentation.randaugment is not None:
            pixels = randaugment(random, pixels, *augmentation.randaugment)
        if augmentation.autoaugment:
            pixels = autoaugment(random, pixels)
        return pixels, int(record.class_ids[0])

    return draw


def with_matches(
    draw_image: Callable[[int], LabelledImage], anchors: np.ndarray, matching: str = "iou"
) -> Callable[[int], DetectionSample]:
    """Matches the objects of images to a model's anchors [A,4], xyxy in input pixels."""

    def draw(index: int) -> DetectionSample:
        image, boxes, class_ids = draw_image(index)
        return image, match(boxes, class_ids, anchors, matching)

    return draw


def collate_detection(samples: Sequence[DetectionSample]) -> DetectionBatch:
    matches = [image_matches for _, image_matches in samples]
    return DetectionBatch(
        torch.from_numpy(np.stack([image for image, _ in samples])),
        torch.from_numpy(np.repeat(np.arange(len(matches)), [len(one.anchors) for one in matches])),
        torch.from_numpy(np.concatenate([one.anchors for one in matches])),
        torch.from_numpy(np.concatenate([one.class_ids for one in matches])),
        torch.from_numpy(np.concatenate([one.codes for one in matches])),
    )


def collate_classification(samples: Sequence[ClassificationSample]) -> ClassificationBatch:
    images, class_ids = zip(*samples, strict=True)
    return ClassificationBatch(torch.from_numpy(np.stack(images)), torch.tensor(class_ids))
