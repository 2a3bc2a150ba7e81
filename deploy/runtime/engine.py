"""An engine folder made ready to run: its manifest checked, its backend loaded, pictures fed in batches."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar, Union

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.parallel import ordered_map
from effedge.deploy.image.files import open_image
from effedge.deploy.image.preprocess import Prepared, letterboxed_size, preparation
from effedge.deploy.runtime.backends import Fused, Infer, load_backend
from effedge.deploy.runtime.manifest import read_manifest

Picture = Union[str, Path, np.ndarray]  # a file, or RGB uint8 [H,W,3]
Outputs = Dict[str, np.ndarray]
Result = TypeVar("Result")
WANTED = {"detection": "Detector", "classification": "Classifier"}
INPUT = "image"


class Engine:
    """What Detector and Classifier have in common.

    Attributes: `model`, its name ("d0"); `labels`, by class id; `height` and `width` of the input; `smallest`, `usual`
    and `batch`, the fewest pictures that one run takes, those that it was built for, and the most; `prepare`, from a
    picture to the input.
    """

    def __init__(self, folder: Union[str, Path], task: str, throughput: bool = False) -> None:
        """Load the engine in `folder`; UserError if it is damaged, cannot run here, or is not for `task`.

        With `throughput` the steps of several pictures go on side by side, in threads: more pictures a second, each
        later.
        """
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
        backend = load_backend(folder, manifest, throughput)
        self.take_backend(backend, backend.parallel if throughput else 1)

    def take_spec(self, folder: Union[str, Path], spec: Dict[str, Any]) -> None:
        """Set all that the spec says; `folder` names the engine in errors. KeyError and the like if it is damaged."""
        self.folder, self.model, self.labels = folder, spec["model"], list(spec["labels"])
        self.height, self.width = spec["input"]["size"]
        self.smallest, self.usual, self.batch = spec["input"]["batch"]
        self.input, self.prepare = spec["input"], preparation(spec["input"])

    def take_backend(self, backend: Infer, parallel: int) -> None:
        """Set what runs the engine, and how many threads may call it at once."""
        self.backend, self.parallel = backend, parallel
        self.fused: Optional[Fused] = None

    def fuse(self, **selection: Any) -> None:
        """Leave letterbox and NMS to the backend too, if it does them quicker (on GPUs). `selection` is NMS's."""
        if hasattr(self.backend, "fuse"):
            self.fused = self.backend.fuse(self.input, selection)

    def run(self, images: Iterable[Picture], finish: Callable[[Prepared, Outputs], Result]) -> Iterator[Result]:
        """What `finish` makes of each image in turn, from what was made of it for the input and its row of every
        output. Images are read when they are needed, a batch at a time (a few batches, in throughput mode)."""
        remaining = iter(images)
        batches = iter(lambda: list(itertools.islice(remaining, self.batch)), [])
        for results in ordered_map(partial(self.run_batch, finish=finish), batches, self.parallel):
            yield from results

    def run_batch(self, images: List[Picture], finish: Callable[[Prepared, Outputs], Result]) -> List[Result]:
        """All steps of one batch."""
        prepared, batch = self.begin([as_array(image) for image in images])
        outputs = self.infer(batch)
        return [
            finish(item, {name: output[row] for name, output in outputs.items()}) for row, item in enumerate(prepared)
        ]

    def begin(self, pictures: List[np.ndarray]) -> Tuple[List[Prepared], Any]:
        """What is done before the engine; `infer` takes the second. Fused it is next to nothing."""
        if self.fused is None:
            prepared = [self.prepare(picture) for picture in pictures]
            return prepared, self.stack(prepared)
        size = (self.height, self.width)
        shapes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        return [Prepared(one, shape, letterboxed_size(shape, size)) for one, shape in zip(pictures, shapes)], pictures

    def infer(self, batch: Any) -> Outputs:
        """The engine's outputs for what `begin` gave."""
        return self.backend({INPUT: batch}) if self.fused is None else self.fused(batch)

    def stack(self, prepared: List[Prepared]) -> np.ndarray:
        """The engine's input; fewer pictures than its smallest batch are filled up with black ones."""
        if len(prepared) == 1 >= self.smallest:
            return prepared[0].pixels[None]
        batch = np.zeros((max(len(prepared), self.smallest), self.height, self.width, 3), np.uint8)
        for row, item in enumerate(prepared):
            batch[row] = item.pixels
        return batch

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
