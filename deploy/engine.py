"""An engine folder made ready to run: its manifest checked, its backend loaded, pictures fed in batches."""

import itertools
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Tuple, Union

import numpy as np

from deploy.backends import load_backend
from deploy.cli import UserError
from deploy.images import open_image
from deploy.manifest import read_manifest
from deploy.preprocess import Prepared, preparation

Picture = Union[str, Path, np.ndarray]  # a file, or RGB uint8 [H,W,3]
WANTED = {"detection": "Detector", "classification": "Classifier"}
INPUT = "image"


class Engine:
    """What Detector and Classifier have in common.

    Attributes: `model`, its name ("d0"); `labels`, by class id; `height` and `width` of the input; `batch`, the most
    pictures that one run takes; `prepare`, from a picture to the input.
    """

    def __init__(self, folder: Union[str, Path], task: str) -> None:
        """Load the engine in `folder`; UserError if it is damaged, cannot run here, or is not for `task`."""
        manifest = read_manifest(folder)
        spec = manifest["spec"]
        if not spec:
            raise UserError(
                f"'{folder}' is an engine of an ONNX that does not say how it wants pictures or what its outputs mean: "
                "use deploy.Runner, which takes and gives arrays"
            )
        try:
            given = spec["task"]
            self.take_spec(folder, spec)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{folder}' has a damaged manifest ({error!r}): build the engine again") from error
        if given != task:
            hint = f": use deploy.{WANTED[given]}" if given in WANTED else ""
            raise UserError(f"'{folder}' is an engine for {given} ({self.model}), expected one for {task}{hint}")
        self.backend = load_backend(folder, manifest)

    def take_spec(self, folder: Union[str, Path], spec: Dict[str, Any]) -> None:
        """Set all that the spec says; `folder` names the engine in errors. KeyError and the like if it is damaged."""
        self.folder, self.model, self.labels = folder, spec["model"], list(spec["labels"])
        self.height, self.width = spec["input"]["size"]
        self.smallest, _, self.batch = spec["input"]["batch"]
        self.prepare = preparation(spec["input"])

    def run(self, images: Iterable[Picture]) -> Iterator[Tuple[Prepared, Dict[str, np.ndarray]]]:
        """For each image in turn: what was made of it for the input, and its row of every output.

        Images are read when they are needed, a batch at a time; a batch smaller than the engine's smallest is filled
        up with black ones.
        """
        remaining = iter(images)
        while True:
            prepared = [self.prepare(as_array(image)) for image in itertools.islice(remaining, self.batch)]
            if not prepared:
                return
            batch = np.zeros((max(len(prepared), self.smallest), self.height, self.width, 3), np.uint8)
            for row, item in enumerate(prepared):
                batch[row] = item.pixels
            outputs = self.backend({INPUT: batch})
            for row, item in enumerate(prepared):
                yield item, {name: output[row] for name, output in outputs.items()}

    def name(self, class_id: int) -> str:
        """The label of a class; its number where the label is a gap (as in COCO's 90) or missing."""
        label = self.labels[class_id] if class_id < len(self.labels) else None
        return str(class_id) if label is None else label

    def check_finite(self, *outputs: np.ndarray) -> None:
        """UserError if the engine computed NaN or infinity: 16 bits do not hold every network's values."""
        if not all(np.isfinite(output).all() for output in outputs):
            raise UserError(f"the engine '{self.folder}' returned values that are not finite: build it with fp32")


def check_several(images: Any) -> None:
    """UserError for one picture given where several are expected: a path or an array could be iterated over too."""
    if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise UserError("one picture was given, expected several: put it into a list, as in detector([picture])")


def as_array(image: Picture) -> np.ndarray:
    """An image as RGB uint8 [H,W,3]: a file is opened, an array checked."""
    if isinstance(image, (str, Path)):
        return open_image(image)
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image of {given} was given, expected a path or RGB uint8 [H,W,3]")
    if image.size == 0:
        raise UserError(f"an image without pixels was given: {list(image.shape)}")
    return image
