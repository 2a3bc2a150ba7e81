"""Serves a detector's or a classifier's engine: images of any size in, in many threads at once.

A pool of as many threads as cores decodes and prepares images; the engine runs in the threads of a Batcher; a request's
own thread waits for both, and selects the detections. So only small arrays wait for the engine, the engine never waits
for an image, and the allocator keeps memory of whole images for a few threads only.
"""

import contextlib
import io
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, TimeoutError, wait
from typing import Dict, List, NamedTuple, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.classification import Classification
from effedge.deploy.image.detections import Detections
from effedge.deploy.image.files import explained_errors, most_pixels, open_head, to_rgb
from effedge.deploy.image.inputs import read_image
from effedge.deploy.image.preprocess import Prepared
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import Outputs
from effedge.deploy.serving.models.batcher import Batcher, Done
from effedge.deploy.serving.models.selections import Options, with_options
from effedge.deploy.serving.refusal import Refusal
from effedge.deploy.timing.machine import cores

Times = Dict[str, float]  # milliseconds by step, in the order of the work
Result = Union[Detections, Classification]
STEPS = ("decode", "prepare", "queue", "engine", "select")
CLIENT_LEFT = 499  # nginx's status for a client that has closed its connection: nobody reads the answer
LARGE = 16_000_000  # pixels; a larger image is decoded while no other large one is, as decoding takes 11 bytes a pixel


class Call:
    """A request under way, which has to end by `deadline` (of time.monotonic), and may be cancelled from outside."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.cancelled = deadline, False
        self.futures: List[Future[Done]] = []

    def cancel(self) -> None:
        """Takes what has not begun yet out of the engine's queue."""
        self.cancelled = True
        for future in self.futures:
            future.cancel()

    def result(self, future: "Future[Done]") -> Done:
        """Waits for the engine. Raises Refusal at the deadline (503), and after `cancel`."""
        self.futures.append(future)
        if self.cancelled:
            self.cancel()
        try:
            return future.result(max(0.0, self.deadline - time.monotonic()))
        except CancelledError as error:
            raise Refusal(CLIENT_LEFT, "the client has gone away") from error
        except TimeoutError as error:
            future.cancel()
            raise Refusal(503, "the engine did not answer in time: ask for less at once", 1) from error


class Answer(NamedTuple):
    """The result of an image, and the milliseconds of its steps."""

    result: Result
    times: Times


class ImageModel:
    """A detector or classifier that is served.

    Attributes:
        name: of the model in paths.
        failed: whether the engine's last run raised an error.
    """

    def __init__(self, name: str, model: Union[Detector, Classifier], batch_seconds: float) -> None:
        self.name, self.model, self.engine = name, model, model.engine
        self.failed = False
        self.decoders, self.large = ThreadPoolExecutor(max(2, cores()), f"decode {name}"), threading.Lock()
        self.batcher = Batcher(
            self.infer, self.engine.max_batch, batch_seconds, self.engine.parallel, name=f"engine {name}"
        )

    def warm_up(self) -> None:
        """Runs the engine once, as its first run takes longer."""
        self.answer(np.zeros((self.engine.height, self.engine.width, 3), np.uint8), {}, Call(time.monotonic() + 600))

    def infer(self, prepared: List[Prepared]) -> Sequence[Outputs]:
        """Runs a batch; returns the outputs of each image."""
        fused = self.engine.fused is not None
        batch = [image.pixels for image in prepared] if fused else self.engine.stack(prepared)
        try:
            outputs = self.engine.infer(batch)
        except BaseException:
            self.failed = True
            raise
        self.failed = False
        return [{name: output[row] for name, output in outputs.items()} for row in range(len(prepared))]

    def answer(self, source: Union[bytes, np.ndarray], options: Options, call: Call) -> Answer:
        """Computes the result of an image: a file's bytes, or RGB uint8 [h,w,3].

        Raises Refusal for an image that cannot be used, options out of their range, and at the deadline; and what the
        engine raises.
        """
        [answer] = self.answers([source], options, call)
        return answer

    def answers(self, sources: Sequence[Union[bytes, np.ndarray]], options: Options, call: Call) -> List[Answer]:
        """Computes the results of several images, as `answer`; they may share a batch."""
        model = with_options(self.model, options)
        decoding = [self.decoders.submit(self.begin, source, call) for source in sources]
        answers = []
        for decoded in decoding:
            prepared, future, times = decoded.result()
            done = call.result(future)
            times["queue"], times["engine"] = done.queue_ms, done.run_ms
            started = time.perf_counter()
            result = model.finish(prepared, self.selectable(model, done.result))
            times["select"] = 1000 * (time.perf_counter() - started)
            answers.append(Answer(result, times))
        return answers

    def selectable(self, model: Union[Detector, Classifier], outputs: Outputs) -> Outputs:
        """Leaves out what NMS kept on the GPU, where a request asks for another selection than that NMS was for."""
        if isinstance(model, Detector) and isinstance(self.model, Detector) and model.selection != self.model.selection:
            return {name: output for name, output in outputs.items() if name != "kept"}
        return outputs

    def begin(self, source: Union[bytes, np.ndarray], call: Call) -> Tuple[Prepared, "Future[Done]", Times]:
        """Decodes and prepares an image, and puts it into the engine's queue."""
        is_large = isinstance(source, bytes) and pixels_of(source) > LARGE
        with self.large if is_large else contextlib.nullcontext():
            if call.cancelled:
                raise Refusal(CLIENT_LEFT, "the client has gone away")
            marks = [time.perf_counter()]
            image = decode(source)
            marks.append(time.perf_counter())
            prepared = self.prepare(image)
            marks.append(time.perf_counter())
            future = self.batcher.submit(prepared)
            if is_large and self.engine.fused is not None:  # it is still as large
                wait([future], max(0.0, call.deadline - time.monotonic()))
        times = {name: 1000 * (end - start) for name, start, end in zip(STEPS, marks, marks[1:])}
        return prepared, future, times

    def prepare(self, image: np.ndarray) -> Prepared:
        """Prepares an image, RGB uint8 [h,w,3], on the CPU; for a GPU that letterboxes, computes only its size."""
        if self.engine.fused is not None:
            [prepared], _ = self.engine.prepare_batch([image])
            return prepared
        return self.engine.prepare(image)

    def close(self) -> None:
        """Ends all threads, once everything that waits has run."""
        self.decoders.shutdown()
        self.batcher.close()


def decode(source: Union[bytes, np.ndarray]) -> np.ndarray:
    """Returns an image as RGB, uint8 [h,w,3]. Raises Refusal: 413 for too many pixels, 400 for no image."""
    if isinstance(source, bytes) and not source:
        raise Refusal(400, "the request has no image: send the bytes of a file as its body, or as a form's file")
    try:
        if isinstance(source, np.ndarray):
            return read_image(source)
        with explained_errors("'upload'"), open_head(io.BytesIO(source)) as opened:
            return to_rgb(opened)
    except UserError as error:
        too_large = isinstance(source, bytes) and pixels_of(source) > most_pixels()
        raise Refusal(413 if too_large else 400, str(error)) from error


def pixels_of(file: bytes) -> int:
    """Reads the number of pixels from the head of an image's file; 0 where it is none."""
    try:
        with Image.open(io.BytesIO(file)) as head:
            return head.width * head.height
    except Image.DecompressionBombError:
        return most_pixels() + 1
    except Exception:  # Pillow's decoders raise almost anything; `decode` says what is wrong
        return 0
