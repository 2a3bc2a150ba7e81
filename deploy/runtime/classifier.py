"""Classifies images with an engine folder: images in, the best classes of each image out."""

from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Sequence, Union, overload

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.classification import Classification
from effedge.deploy.image.inputs import RGB, ImageLike
from effedge.deploy.image.preprocess import Prepared
from effedge.deploy.runtime.engine import Engine, Outputs
from effedge.deploy.runtime.signature import Keys

TOP = 5


class Classifier:
    """A classifier's engine folder, ready to run.

    >>> classifier = Classifier("build/b0-digits/int8-cpu")
    >>> best = classifier("crop.png")
    >>> best[0].label, len(best)
    ('3', 5)
    >>> Classifier("build/b0-digits/int8-cpu", top=2)("crop.png").labels
    ['3', '7']
    """

    top = TOP

    def __init__(
        self,
        folder: Union[str, Path],
        throughput: bool = False,
        top: int = TOP,
        trusted_keys: Optional[Keys] = None,
    ) -> None:
        """Loads the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is no classifier's.

        Args:
            throughput: process several images in parallel: more images a second, each with a higher latency.
            top: the number of classes that are reported of an image (all classes, where the model has fewer).
            trusted_keys: files of public keys, one of which must have signed the engine (`effedge sign`).
        """
        if not isinstance(top, int) or top < 1:
            raise UserError(f"top={top!r} was given, expected a whole number from 1 on")
        self.engine, self.top = Engine(folder, "classification", throughput, trusted_keys), top

    @property
    def batch(self) -> int:
        """The largest number of images that one run of the engine takes."""
        return self.engine.max_batch

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence too
        self, images: ImageLike, color: str = RGB
    ) -> Classification: ...

    @overload
    def __call__(self, images: Sequence[ImageLike], color: str = RGB) -> List[Classification]: ...

    def __call__(
        self, images: Union[ImageLike, Sequence[ImageLike]], color: str = RGB
    ) -> Union[Classification, List[Classification]]:
        """Returns the best classes of an image; for a list or tuple of images the list of theirs, in order.

        The arguments and errors are those of `Detector`.
        """
        return self.engine.run_call(images, self.finish, color)

    def stream(self, images: Iterable[ImageLike], color: str = RGB) -> Iterator[Classification]:
        """Yields the best classes of each image of any iterable, in order.

        Images are taken when they are needed, a batch at a time.
        """
        return self.engine.run(images, self.finish, color)

    def finish(self, _: Prepared, outputs: Outputs, source: Optional[Path] = None) -> Classification:
        """Converts the logits of an image, float32 [C], to the best classes; equal logits are sorted by class id."""
        logits = outputs["logits"]
        self.engine.check_finite(logits)
        best = np.argsort(-logits, kind="stable")[: self.top]
        labels = [self.engine.label(class_id) for class_id in best.tolist()]
        return Classification(best, labels, softmax(logits)[best], source)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax of logits [C], float64 [C]. The largest logit is subtracted first, so nothing overflows."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()
