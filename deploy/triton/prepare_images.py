"""Makes images ready for the engine, as a model of Triton's Python backend: the first step of an ensemble.

From `image`, files in BYTES [N,1] or RGB in UINT8 [N,h,w,3], to `pixels`, UINT8 [N,H,W,3], and `geometry`, INT32 [N,4],
the heights and widths `image_size` and `resized_size` of effedge.deploy.image.preprocess.Prepared.
"""

import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Dict, List, Mapping, Sequence, Union

import numpy as np

from effedge.deploy.image.preprocess import Prepared
from effedge.deploy.serving.models.image_model import LARGE, decode, pixels_of
from effedge.deploy.serving.refusal import Refusal
from effedge.deploy.timing.machine import cores
from effedge.deploy.triton.configs import GEOMETRY, IMAGE, PIXELS
from effedge.deploy.triton.python_backend import answer, arrays_of, described_engine, refusal


class TritonPythonModel:
    """The step before the engine. All images of an execution are decoded and resized in as many threads as cores."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self.engine = described_engine(args)
        self.threads, self.large = ThreadPoolExecutor(max(2, cores())), threading.Lock()

    def execute(self, requests: Sequence[Any]) -> List[Any]:
        """Answers requests, each with its own images or its own error."""
        waiting = [
            [self.threads.submit(self.prepare, image) for image in list(arrays_of(request)[IMAGE])]
            for request in requests
        ]
        return [self.response(images) for images in waiting]

    def prepare(self, image: np.ndarray) -> Prepared:
        """Prepares an image, an array of a file's bytes or RGB [h,w,3]. Raises Refusal for no image."""
        source: Union[bytes, np.ndarray] = bytes(image.reshape(-1)[0]) if image.dtype == object else image
        is_large = isinstance(source, bytes) and pixels_of(source) > LARGE
        with self.large if is_large else contextlib.nullcontext():
            return self.engine.prepare(decode(source))

    def response(self, images: "Sequence[Future[Prepared]]") -> Any:
        """Waits for a request's images; returns the response, which is the first error if there is one."""
        try:
            prepared = [image.result() for image in images]
        except Refusal as error:
            return refusal(error)
        return answer(outputs_of(prepared))

    def finalize(self) -> None:
        self.threads.shutdown()


def outputs_of(prepared: Sequence[Prepared]) -> Dict[str, np.ndarray]:
    """Stacks prepared images to the outputs of this module's docstring."""
    geometry = [[*image.image_size, *image.resized_size] for image in prepared]
    return {PIXELS: np.stack([image.pixels for image in prepared]), GEOMETRY: np.array(geometry, np.int32)}
