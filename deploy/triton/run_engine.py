"""Runs an engine of effedge as a model of Triton's Python backend, by effedge's own runtime, so that its outputs are
those of effedge: OpenVINO and ONNX Runtime with the engine's own settings, and TensorRT-RTX."""

from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.runner import Runner
from effedge.deploy.triton.python_backend import answer, arrays_of, refusal, version_folder

ENGINE = "engine"  # folder

Arrays = Dict[str, np.ndarray]


class TritonPythonModel:
    """The engine. The requests of an execution are one run, if their batches fit into it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self.runner = Runner(version_folder(args) / ENGINE)
        self.batch = self.runner.batch or (1, 1)

    def execute(self, requests: Sequence[Any]) -> List[Any]:
        """Answers requests. If a run of several fails, each has a run of its own, and its own error."""
        feeds = [arrays_of(request) for request in requests]
        if len(feeds) > 1:
            try:
                return [answer(outputs) for outputs in self.run_together(feeds)]
            except UserError:
                pass
        return [self.response(arrays) for arrays in feeds]

    def response(self, feeds: Arrays) -> Any:
        """Runs one request."""
        try:
            [outputs] = self.run_together([feeds])
            return answer(outputs)
        except UserError as error:
            return refusal(error)

    def run_together(self, feeds: Sequence[Arrays]) -> List[Arrays]:
        """Runs the engine on the batches of several requests at once; returns the outputs of each.

        Rows of zeros fill up an engine's smallest batch. Raises UserError for arrays that the engine does not take.
        """
        least, most = self.batch
        rows = [len(next(iter(arrays.values()))) if most > 1 else 1 for arrays in feeds]
        if len(feeds) == 1 and sum(rows) >= least:
            return [self.runner(feeds[0])]
        if sum(rows) > most:
            raise UserError(f"{sum(rows)} rows were given at once, the engine takes {most}")
        joined = {name: np.concatenate([arrays[name] for arrays in feeds]) for name in feeds[0]}
        missing = max(0, least - sum(rows))
        filled = {name: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for name, array in joined.items()}
        outputs = self.runner(filled)
        ends = np.cumsum(rows).tolist()
        return [{name: output[end - count : end] for name, output in outputs.items()} for count, end in zip(rows, ends)]
