"""Trials: a candidate model is run on a few samples and its damage (damage.py) against the float model measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import session
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.search.output_error import damage_of


class Trials:
    """The float model's outputs on some samples, to hold candidates against.

    What is kept is one set of model inputs and outputs per sample, so `samples` should be few.
    """

    def __init__(self, reference: ir.Model, samples: Samples) -> None:
        self.measure = damage_of(reference)
        running = session(reference)
        self.feeds = [feeds for _, feeds in samples]
        self.expected = [running.run(None, feeds) for feeds in self.feeds]

    def __call__(self, candidate: ir.Model) -> float:
        """The mean damage of the candidate over the samples."""
        return float(np.mean(self.each(session(candidate).run)))

    def each(
        self, run: Callable[..., list[np.ndarray]], feeds: Sequence[Mapping[str, np.ndarray]] | None = None
    ) -> list[float]:
        """The damage of each sample to what `run(None, feeds)` returns; `feeds` are others than the model's own."""
        pairs = zip(self.feeds if feeds is None else feeds, self.expected, strict=True)
        return [self.measure(expected, run(None, feeds)) for feeds, expected in pairs]
