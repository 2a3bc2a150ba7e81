"""An engine's work cut into steps that can be timed: decode, prepare, engine, select.

One run is one batch through all steps; an engine of an ONNX that says nothing of pictures has the step `engine` alone.
Where the GPU does a detector's letterbox and NMS too, their time is the engine's.
"""

import itertools
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import INPUT, WANTED
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.deploy.runtime.runner import Runner
from effedge.deploy.timing.synthetic_inputs import made_up_array, made_up_picture

Times = Dict[str, float]  # milliseconds by step, in the order of the work
STEPS = ("decode", "prepare", "engine", "select")
ENGINE, END_TO_END = "engine", "end to end"


class Workload:
    """`run` does all steps once and times them; `infer` runs the engine alone on an input that stays the same.

    Attributes: `batch`, the pictures of a run (None for an engine that takes arrays); `steps`, by name.
    """

    def __init__(
        self,
        steps: Sequence[str],
        run: Callable[[], Times],
        infer: Callable[[], Any],
        batch: Optional[int],
    ) -> None:
        self.steps, self.run, self.infer, self.batch = tuple(steps), run, infer, batch

    def time_engine(self) -> float:
        """The milliseconds of one `infer`."""
        started = time.perf_counter()
        self.infer()
        return 1000 * (time.perf_counter() - started)


def make_workload(
    folder: Union[str, Path], pictures: Sequence[Path], batch: Optional[int] = None, decode: bool = True
) -> Workload:
    """Load an engine's folder, to be timed on pictures in turn (a made-up one in memory, if none are given).

    Args:
        batch: pictures a run; default: what the engine was built for.
        decode: read each picture from the disk in each run; else only once, and start from the pixels.

    Raises:
        UserError: an engine that cannot run here, a picture that is none, a batch that the engine does not take.
    """
    task = parse_manifest(folder)["spec"].get("task")
    if task in WANTED:
        model = load_model(folder, task)
        return picture_workload(model, pictures, checked_batch(model, folder, batch), decode)
    if pictures or batch is not None:
        raise UserError(f"'{folder}' takes arrays, not pictures: leave pictures and batch out, made-up ones are used")
    return array_workload(Runner(folder))


def load_model(folder: Union[str, Path], task: str, throughput: bool = False) -> Union[Detector, Classifier]:
    if task == "detection":
        return Detector(folder, throughput=throughput)
    return Classifier(folder, throughput=throughput)


def checked_batch(model: Union[Detector, Classifier], folder: Union[str, Path], batch: Optional[int]) -> int:
    engine = model.engine
    if batch is not None and not engine.smallest <= batch <= engine.batch:
        takes = f"{engine.smallest} to {engine.batch}" if engine.smallest < engine.batch else str(engine.batch)
        raise UserError(f"batch {batch} was asked for, '{folder}' takes {takes}")
    return batch or engine.usual


def picture_workload(
    model: Union[Detector, Classifier], pictures: Sequence[Path], batch: int, decode: bool
) -> Workload:
    engine, finish = model.engine, model.finish
    decode = decode and bool(pictures)
    source: Iterator[Any]
    if decode:
        source = itertools.cycle(pictures)
    else:
        source = itertools.cycle([open_image(path) for path in pictures] or [made_up_picture()])
    read: Callable[[Any], np.ndarray] = open_image if decode else lambda pixels: pixels

    def run() -> Times:
        marks = [time.perf_counter()]
        images = [read(item) for item in itertools.islice(source, batch)]
        marks.append(time.perf_counter())
        prepared, feeds = engine.begin(images)
        marks.append(time.perf_counter())
        outputs = engine.infer(feeds)
        marks.append(time.perf_counter())
        for row, item in enumerate(prepared):
            finish(item, {name: output[row] for name, output in outputs.items()})
        marks.append(time.perf_counter())
        times = {name: 1000 * (end - start) for name, start, end in zip(STEPS, marks, marks[1:])}
        if not decode:
            del times["decode"]
        return times

    fixed = {INPUT: engine.stack([engine.prepare(made_up_picture())] * batch)}
    return Workload(STEPS if decode else STEPS[1:], run, lambda: engine.backend(fixed), batch)


def array_workload(runner: Runner) -> Workload:
    feeds = made_up_arrays(runner)
    work = Workload([ENGINE], lambda: {ENGINE: work.time_engine()}, lambda: runner(feeds), None)
    return work


def made_up_arrays(runner: Runner) -> Dict[str, np.ndarray]:
    """An array for each input. UserError where a dimension other than the batch is not fixed."""
    feeds = {}
    for wanted in runner.inputs:
        shape = wanted.shape
        if shape is None or None in shape[1:]:
            raise UserError(
                f"input '{wanted.name}' of '{runner.folder}' has no fixed shape: only engines of fixed shapes (but for "
                "the batch) can be timed without your arrays"
            )
        batch = runner.batch[0] if runner.batch else 1
        sizes: List[int] = [batch if size is None else size for size in shape]
        feeds[wanted.name] = made_up_array(sizes, wanted.dtype)
    return feeds
