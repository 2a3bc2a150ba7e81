"""Prepares an engine folder to run on images: checks its manifest, loads its backend, and feeds images in batches."""

import itertools
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union, cast

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import STRETCH, Spec
from effedge.deploy.common.parallel import ordered_map
from effedge.deploy.image.inputs import RGB, ImageLike, read_image
from effedge.deploy.image.preprocess import Prepared, preparation, resized_size, shortened
from effedge.deploy.runtime.backends import FusedDetector, Infer, load_backend
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.runtime.selection import IOU
from effedge.deploy.runtime.signature import Keys

Batch = Union[np.ndarray, List[np.ndarray]]  # uint8 [N,H,W,3]; or the images themselves, for a FusedDetector
Outputs = Dict[str, np.ndarray]
Result = TypeVar("Result")
# From an image, its row of every output, and its path if it was a file, to the result.
Finish = Callable[[Prepared, Outputs, Optional[Path]], Result]
CLASS_OF_TASK = {"detection": "Detector", "classification": "Classifier"}
INPUT = "image"


class Engine:
    """The common part of Detector and Classifier.

    Attributes:
        model: the model's name ("d0").
        labels: by class id.
        height, width: of the input.
        min_batch, usual_batch, max_batch: the fewest images that one run takes, the number that the engine was built
            for, and the most.
        iou: of a detector's NMS, where none is asked for.
        prepare: from an image, RGB uint8 [h,w,3], to the input.
    """

    def __init__(
        self, folder: Union[str, Path], task: str, throughput: bool = False, trusted_keys: Optional[Keys] = None
    ) -> None:
        """Loads the engine in `folder`. Raises UserError if it is damaged, cannot run here, or is not for `task`.

        With `throughput` several images are processed in parallel by threads: more images a second, each with a higher
        latency. `trusted_keys` are as `read_manifest` takes them.
        """
        manifest = read_manifest(folder, trusted_keys)
        spec = manifest["spec"]
        if not spec:
            raise UserError(
                f"'{folder}' is an engine of an ONNX that does not say how it wants images or what its outputs mean: "
                "use effedge.Runner, which takes and gives arrays"
            )
        try:
            engine_task = spec["task"]
            self.set_spec(folder, spec)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{folder}' has a damaged manifest ({error!r}): build the engine again") from error
        if engine_task != task:
            hint = f": use effedge.{CLASS_OF_TASK[engine_task]}" if engine_task in CLASS_OF_TASK else ""
            raise UserError(f"'{folder}' is an engine for {engine_task} ({self.model}), expected one for {task}{hint}")
        backend = load_backend(folder, manifest, throughput)
        self.set_backend(backend, backend.parallel if throughput else 1)

    def set_spec(self, folder: Union[str, Path], spec: Spec) -> None:
        """Sets everything that the spec says; `folder` names the engine in errors.

        Raises KeyError, TypeError or ValueError if the spec is damaged.
        """
        self.folder, self.model, self.labels = folder, spec["model"], list(spec["labels"])
        self.height, self.width = spec["input"]["size"]
        self.min_batch, self.usual_batch, self.max_batch = spec["input"]["batch"]
        self.iou = spec.get("iou", IOU)
        self.input_spec, self.prepare = spec["input"], preparation(spec["input"])

    def set_backend(self, backend: Infer, parallel: int) -> None:
        """Sets what runs the engine, and how many threads may call it at once."""
        self.backend, self.parallel = backend, parallel
        self.fused: Optional[FusedDetector] = None

    def fuse(self, *, threshold: float, iou: float, max_detections: int) -> None:
        """Lets the backend run letterbox and NMS too, if it can (on GPUs). The parameters are those of NMS."""
        if hasattr(self.backend, "fuse"):
            selection = {"threshold": threshold, "iou": iou, "max_detections": max_detections}
            self.fused = self.backend.fuse(self.input_spec, selection)

    def run_call(
        self, images: Union[ImageLike, Sequence[ImageLike]], finish: Finish[Result], color: str
    ) -> Union[Result, List[Result]]:
        """Returns the result of an image, or the list of those of a list or tuple; see `run`.

        Raises UserError for an iterable of another kind: it may have no end.
        """
        if isinstance(images, (list, tuple)):
            return list(self.run(images, finish, color))
        if hasattr(images, "__next__"):
            raise UserError("an iterator was given, expected an image or a list of images: .stream(images) takes it")
        [result] = self.run_batch([cast(ImageLike, images)], finish, color)
        return result

    def run(self, images: Iterable[ImageLike], finish: Finish[Result], color: str = RGB) -> Iterator[Result]:
        """Yields the result of `finish` for each image, in order.

        Images are read when they are needed, a batch at a time (a few batches, in throughput mode).

        Args:
            color: the order of an array's channels, as `effedge.deploy.image.inputs.read_image` takes it.

        Raises UserError for a single image, which could be iterated over too.
        """
        is_array = isinstance(images, np.ndarray) or hasattr(images, "detach")
        is_one = is_array and len(getattr(images, "shape", ())) < 4
        if is_one or isinstance(images, (str, bytes, bytearray, memoryview)) or not hasattr(images, "__iter__"):
            raise UserError("one image was given, expected several: put it into a list, as in stream([image])")
        remaining = iter(images)
        batches = iter(lambda: list(itertools.islice(remaining, self.max_batch)), [])
        return (
            result
            for results in ordered_map(partial(self.run_batch, finish=finish, color=color), batches, self.parallel)
            for result in results
        )

    def run_batch(self, images: List[ImageLike], finish: Finish[Result], color: str) -> List[Result]:
        """Runs all steps for one batch."""
        prepared, batch = self.prepare_batch([read_image(image, color) for image in images])
        outputs = self.infer(batch)
        sources = [Path(image) if isinstance(image, (str, Path)) else None for image in images]
        return [
            finish(image, {name: output[row] for name, output in outputs.items()}, source)
            for row, (image, source) in enumerate(zip(prepared, sources))
        ]

    def prepare_batch(self, images: List[np.ndarray]) -> Tuple[List[Prepared], Batch]:
        """Prepares images, RGB uint8 [h,w,3]: each by itself, and the batch that `infer` takes.

        For a fused detector, which resizes by itself, only the sizes are computed.
        """
        if self.fused is None:
            prepared = [self.prepare(image) for image in images]
            return prepared, self.stack(prepared)
        shapes = [(image.shape[0], image.shape[1]) for image in images]
        if self.input_spec["resize"] == STRETCH:
            images = [shortened(image) for image in images]
        sizes = [resized_size(shape, self.input_spec) for shape in shapes]
        return [Prepared(*fields) for fields in zip(images, shapes, sizes)], images

    def infer(self, batch: Batch) -> Outputs:
        """Computes the engine's outputs for the batch that `prepare_batch` returned."""
        if self.fused is not None:
            return self.fused(list(batch))
        return self.backend({INPUT: np.asarray(batch)})

    def stack(self, prepared: List[Prepared]) -> np.ndarray:
        """Stacks images to the engine's input, uint8 [N,H,W,3]; black images fill it up to the smallest batch."""
        if len(prepared) == 1 >= self.min_batch:
            return prepared[0].pixels[None]
        batch = np.zeros((max(len(prepared), self.min_batch), self.height, self.width, 3), np.uint8)
        for row, image in enumerate(prepared):
            batch[row] = image.pixels
        return batch

    def label(self, class_id: int) -> str:
        """Returns the label of a class; its number where the label is a gap (as in COCO's 90) or missing."""
        label = self.labels[class_id] if 0 <= class_id < len(self.labels) else None
        return str(class_id) if label is None else label

    def all_labels(self) -> List[str]:
        """Returns the label of each class, as `label` does."""
        return [self.label(class_id) for class_id in range(len(self.labels))]

    def check_finite(self, *outputs: np.ndarray) -> None:
        """Raises UserError if the engine computed NaN or infinity: 16 bits do not hold every network's values."""
        if not all(np.isfinite(output).all() for output in outputs):
            raise UserError(f"the engine '{self.folder}' returned values that are not finite: build it with fp32")
