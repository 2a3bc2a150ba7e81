"""Serves an engine of an ONNX that does not say how it takes images: arrays in, arrays out."""

from typing import Dict, List

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.runner import Runner
from effedge.deploy.serving.models.batcher import Batcher
from effedge.deploy.serving.models.image_model import Call, Times
from effedge.deploy.serving.refusal import Refusal


class ArrayModel:
    """An engine that is served by its own inputs and outputs; requests are not put together to batches.

    The attributes are those of ImageModel.
    """

    def __init__(self, name: str, runner: Runner) -> None:
        self.name, self.runner = name, runner
        self.failed = False
        self.batcher = Batcher(self.infer, 1, 0.0, 1, name=f"engine {name}")

    def warm_up(self) -> None:
        """Does nothing: which arrays an engine can take is not known."""

    def infer(self, requests: List[Dict[str, np.ndarray]]) -> List[Dict[str, np.ndarray]]:
        """Runs one request."""
        [feeds] = requests
        try:
            outputs = self.runner(feeds)
        except UserError:  # of the request's arrays
            raise
        except BaseException:
            self.failed = True
            raise
        self.failed = False
        return [outputs]

    def answer(self, feeds: Dict[str, np.ndarray], call: Call, times: Times) -> Dict[str, np.ndarray]:
        """Computes the outputs by name, and adds the milliseconds to `times`. Raises Refusal (400) for arrays that the
        engine does not take."""
        try:
            done = call.result(self.batcher.submit(feeds))
        except UserError as error:
            raise Refusal(400, str(error)) from error
        times["queue"], times["engine"] = done.queue_ms, done.run_ms
        outputs: Dict[str, np.ndarray] = done.result
        return outputs

    def close(self) -> None:
        """Ends the engine's thread, once everything that waits has run."""
        self.batcher.close()
