"""Cuts an engine's work into steps that can be timed: decode, prepare, engine, select.

A run is a batch through all steps; an engine of an ONNX that says nothing of images has the step `engine` only.
Where the GPU does a detector's letterbox and NMS too, their time is the engine's.
"""

import itertools
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Union

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import CLASS_OF_TASK, INPUT
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.deploy.runtime.runner import Runner
from effedge.deploy.timing.synthetic_inputs import synthetic_array, synthetic_image

Times = Dict[str, float]  # milliseconds by step, in the order of the work
Model = Union[Detector, Classifier]
STEPS = ("decode", "prepare", "engine", "select")
ENGINE, END_TO_END = "engine", "end to end"


class Workload:
    """The work of an engine.

    Attributes:
        steps: their names, in order.
        run: does all steps once, and returns their milliseconds.
        infer: runs the engine only, on an input that stays the same.
        batch: the number of images of a run; None for an engine that takes arrays.
    """

    def __init__(
        self, steps: Sequence[str], run: Callable[[], Times], infer: Callable[[], object], batch: Optional[int]
    ) -> None:
        self.steps, self.run, self.infer, self.batch = tuple(steps), run, infer, batch

    def time_engine(self) -> float:
        """Runs `infer` once and returns its milliseconds."""
        return milliseconds_of(self.infer)


def milliseconds_of(function: Callable[[], object]) -> float:
    """The duration of a call."""
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)


def make_workload(
    folder: Union[str, Path], images: Sequence[Path], batch: Optional[int] = None, decode: bool = True
) -> Workload:
    """Loads an engine's folder, to be timed on images in turn (a synthetic one in memory, if there are none).

    Args:
        batch: images a run; default: the number that the engine was built for.
        decode: read each image from the disk in each run; else only once, and start from the pixels.

    Raises:
        UserError: an engine that cannot run here, a file that is no image, a batch that the engine does not take.
    """
    task = parse_manifest(folder)["spec"].get("task")
    if task in CLASS_OF_TASK:
        model = load_model(folder, str(task))
        return image_workload(model, images, checked_batch(model, folder, batch), decode)
    if images or batch is not None:
        raise UserError(f"'{folder}' takes arrays, not images: leave images and batch out, synthetic arrays are used")
    return array_workload(Runner(folder))


def load_model(folder: Union[str, Path], task: str, throughput: bool = False) -> Model:
    """Loads a detector or classifier."""
    if task == "detection":
        return Detector(folder, throughput=throughput)
    return Classifier(folder, throughput=throughput)


def checked_batch(model: Model, folder: Union[str, Path], batch: Optional[int]) -> int:
    """Returns the batch, or the engine's usual one if it is None. Raises UserError if the engine does not take it."""
    engine = model.engine
    if batch is not None and not engine.min_batch <= batch <= engine.max_batch:
        fixed = engine.min_batch == engine.max_batch
        takes = str(engine.max_batch) if fixed else f"{engine.min_batch} to {engine.max_batch}"
        raise UserError(f"batch {batch} was asked for, '{folder}' takes {takes}")
    return batch or engine.usual_batch


def image_workload(model: Model, images: Sequence[Path], batch: int, decode: bool) -> Workload:
    """The work of a detector or classifier, whose step `decode` is left out where images are not read in each run."""
    engine = model.engine
    steps: Sequence[str] = STEPS
    source: Iterator[np.ndarray] = map(open_image, itertools.cycle(images))
    if not (decode and images):
        steps = STEPS[1:]
        source = itertools.cycle([open_image(path) for path in images] or [synthetic_image()])

    def run() -> Times:
        marks = [time.perf_counter()]
        decoded = list(itertools.islice(source, batch))
        marks.append(time.perf_counter())
        prepared, feeds = engine.prepare_batch(decoded)
        marks.append(time.perf_counter())
        outputs = engine.infer(feeds)
        marks.append(time.perf_counter())
        for row, image in enumerate(prepared):
            model.finish(image, {name: output[row] for name, output in outputs.items()})
        marks.append(time.perf_counter())
        times = {name: 1000 * (end - start) for name, start, end in zip(STEPS, marks, marks[1:])}
        return {name: times[name] for name in steps}

    fixed = {INPUT: engine.stack([engine.prepare(synthetic_image())] * batch)}
    return Workload(steps, run, lambda: engine.backend(fixed), batch)


def array_workload(runner: Runner) -> Workload:
    """The work of an engine that takes arrays, on synthetic ones."""
    feeds = synthetic_arrays(runner)
    infer = partial(runner, feeds)
    return Workload([ENGINE], lambda: {ENGINE: milliseconds_of(infer)}, infer, None)


def synthetic_arrays(runner: Runner) -> Dict[str, np.ndarray]:
    """Makes an array for each input. Raises UserError where a dimension other than the batch is not fixed."""
    feeds = {}
    for tensor in runner.inputs:
        shape = tensor.shape
        if shape is None or None in shape[1:]:
            raise UserError(
                f"input '{tensor.name}' of '{runner.folder}' has no fixed shape: only engines of fixed shapes (but for "
                "the batch) can be timed without your arrays"
            )
        batch = runner.batch[0] if runner.batch else 1
        sizes = [batch if size is None else size for size in shape]
        feeds[tensor.name] = synthetic_array(sizes, tensor.dtype)
    return feeds
