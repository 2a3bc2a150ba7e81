"""Classifies images with an engine folder: images in, the best classes of each image out."""

from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Union

import numpy as np

from effedge.deploy.image.preprocess import Prepared
from effedge.deploy.runtime.engine import Engine, ImageLike, Outputs, check_sequence

BEST = 5


class ClassScore(NamedTuple):
    """A class of an image; `score` is its softmax probability."""

    class_id: int
    name: str
    score: float


class Classifier:
    """A classifier's engine folder, ready to run.

    >>> classifier = Classifier("build/b0-digits/fp32-cpu")  # doctest: +SKIP
    >>> [best] = classifier(["photo.jpg"])  # doctest: +SKIP
    """

    def __init__(self, folder: Union[str, Path], throughput: bool = False) -> None:
        """Loads the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is no classifier's.

        Args:
            throughput: process several images in parallel: more images a second, each with a higher latency.
        """
        self.engine = Engine(folder, "classification", throughput)

    @property
    def batch(self) -> int:
        """The largest number of images that one run of the engine takes."""
        return self.engine.max_batch

    def __call__(self, images: Iterable[ImageLike]) -> Iterator[List[ClassScore]]:
        """Yields the five best classes of each image, best first (all classes, where the model has fewer).

        Images are paths or RGB uint8 [H,W,3], and are read when they are needed. Raises UserError for an image that
        cannot be read.
        """
        check_sequence(images)
        return self.engine.run(images, self.finish)

    def finish(self, _: Prepared, outputs: Outputs) -> List[ClassScore]:
        """Converts the logits of an image, float32 [C], to the five best classes; equal logits are sorted by class
        id."""
        logits = outputs["logits"]
        self.engine.check_finite(logits)
        scores = softmax(logits)
        best = np.argsort(-logits, kind="stable")[:BEST].tolist()
        return [ClassScore(class_id, self.engine.label(class_id), float(scores[class_id])) for class_id in best]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax of logits [C], float64 [C]. The largest logit is subtracted first, so nothing overflows."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()
