"""Runs trials: a candidate model on a few samples, to measure its output error against the float model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession

from effedge.calibration.graph.session import Arrays, session, side_by_side, threads_in
from effedge.calibration.output_error.kinds import Choice, choose_judges
from effedge.calibration.output_error.measure import OutputError
from effedge.calibration.ranges.samples import Samples
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import image_sides


class Trials:
    """The float model's outputs on some samples, to compare candidates with.

    The model's inputs and outputs of every sample are kept, so `samples` should be few.

    Args:
        kinds: the meaning of outputs by their names, where it is not to be guessed.
        choice: how to judge the outputs, as other trials of the same model chose.
    """

    def __init__(
        self,
        reference: ir.Model,
        samples: Samples,
        kinds: Mapping[str, str] | None = None,
        choice: Choice | None = None,
    ) -> None:
        running = session(reference)
        self.feeds = [feeds for _, feeds in samples]
        expected = list(side_by_side(lambda feeds: running.run(None, feeds), self.feeds, threads_in(running)))
        check_finite(reference, expected)
        self.choice = choice or choose_judges(reference, expected, image_size(self.feeds[0]), kinds)
        self.measure = OutputError(self.choice.judges, expected)

    def output_error(self, candidate: ir.Model) -> float:
        """Returns the mean output error of the candidate over the samples."""
        return float(np.mean(list(self.block_errors(candidate).values())))

    def output_errors(
        self,
        running: InferenceSession,
        feeds: Sequence[Arrays],
        constants: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Iterator[float]:
        """Computes the output error of each sample as it is asked for.

        Args:
            feeds: of the session, for each sample.
            constants: feeds that are the same for all samples.
        """
        if len(feeds) != len(self.feeds):
            raise ValueError(f"{len(feeds)} runs for {len(self.feeds)} samples")
        return side_by_side(
            lambda index: self.error_of(index, running, {**feeds[index], **constants}),
            range(len(feeds)),
            threads_in(running),
        )

    def error_of(self, sample: int, running: InferenceSession, feeds: Arrays) -> float:
        """Computes the output error of one sample; `feeds` are of the session."""
        return self.measure.of(sample, running.run(None, feeds))

    def block_errors(self, candidate: ir.Model) -> dict[str, float]:
        """Returns the candidate's error of each block of the outputs, by name; their mean is its output error."""
        running = session(candidate)
        runs = side_by_side(
            lambda index: self.measure.of_blocks(index, running.run(None, self.feeds[index])),
            range(len(self.feeds)),
            threads_in(running),
        )
        return dict(zip(self.measure.blocks, np.mean(list(runs), axis=0).tolist(), strict=True))


def check_finite(model: ir.Model, expected: Sequence[Sequence[np.ndarray]]) -> None:
    """Raises a UserError if the float model computes nothing but NaN and infinity at an output: nothing is near it."""
    for index, value in enumerate(model.graph.outputs):
        arrays = [run[index] for run in expected if run[index].dtype.kind == "f" and run[index].size]
        if arrays and not any(np.isfinite(array).any() for array in arrays):
            raise UserError(
                f"the float model's output '{value.name}' is NaN or infinite on all samples: expected numbers; look at "
                "the calibration data, or at the weights of the model"
            )


def image_size(feeds: Arrays) -> tuple[int, int] | None:
    """Returns the height and width of the image among a model's inputs; None if there is not one."""
    shapes = [array.shape for array in feeds.values()]
    sizes = [shape[sides] for shape in shapes if (sides := image_sides(shape)) is not None]
    return (int(sizes[0][0]), int(sizes[0][1])) if len(sizes) == 1 else None
