"""Classification with an engine folder: pictures in, the best classes of each out."""

from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Union

import numpy as np

from effedge.deploy.image.preprocess import Prepared
from effedge.deploy.runtime.engine import Engine, Outputs, Picture, check_several

BEST = 5


class ClassScore(NamedTuple):
    """One class of a picture; `score` is its softmax probability."""

    class_id: int
    name: str
    score: float


class Classifier:
    """A classifier's engine folder, ready to run.

    >>> classifier = Classifier("build/b0-digits/fp32-cpu")  # doctest: +SKIP
    >>> [best] = classifier(["photo.jpg"])  # doctest: +SKIP
    """

    def __init__(self, folder: Union[str, Path], throughput: bool = False) -> None:
        """Load the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is no classifier's.

        Args:
            throughput: more pictures a second, each of them later: the steps of several go on side by side.
        """
        self.engine = Engine(folder, "classification", throughput)

    @property
    def batch(self) -> int:
        """How many pictures the engine takes at once."""
        return self.engine.batch

    def __call__(self, images: Iterable[Picture]) -> Iterator[List[ClassScore]]:
        """Yield the five best classes of each image, best first (all, where the model has fewer). Images are paths or
        RGB uint8 [H,W,3], and are read when they are needed. Raises UserError for one that cannot be read."""
        check_several(images)
        return self.engine.run(images, self.finish)

    def finish(self, _: Prepared, outputs: Outputs) -> List[ClassScore]:
        """The engine's logits for one picture, float32 [C] -> the five best classes, ties by class id."""
        logits = outputs["logits"]
        self.engine.check_finite(logits)
        scores = softmax(logits)
        best = np.argsort(-logits, kind="stable")[:BEST].tolist()
        return [ClassScore(class_id, self.engine.name(class_id), float(scores[class_id])) for class_id in best]


def softmax(logits: np.ndarray) -> np.ndarray:
    """[C] -> float64 [C], summing to 1; the largest is subtracted first so that nothing overflows."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()
