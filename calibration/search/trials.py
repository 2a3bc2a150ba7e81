"""Runs trials: a candidate model on a few samples, to measure its output error against the float model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import session
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.search.output_error import output_error_of
from effedge.calibration.weights.layered_run import Arrays


class Trials:
    """The float model's outputs on some samples, to compare candidates with.

    The model's inputs and outputs of every sample are kept, so `samples` should be few.
    """

    def __init__(self, reference: ir.Model, samples: Samples) -> None:
        self.measure = output_error_of(reference)
        running = session(reference)
        self.feeds = [feeds for _, feeds in samples]
        self.expected = [running.run(None, feeds) for feeds in self.feeds]

    def output_error(self, candidate: ir.Model) -> float:
        """Returns the mean output error of the candidate over the samples."""
        running = session(candidate)
        return float(np.mean(self.output_errors(lambda feeds: running.run(None, feeds), self.feeds)))

    def output_errors(self, run: Callable[[Arrays], list[np.ndarray]], feeds: Sequence[Arrays]) -> list[float]:
        """Returns the output error of each sample; `run` computes the outputs from the sample's item of `feeds`."""
        pairs = zip(feeds, self.expected, strict=True)
        return [self.measure(expected, run(sample)) for sample, expected in pairs]
