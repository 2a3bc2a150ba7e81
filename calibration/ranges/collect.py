"""Collects the ranges of activations in one streaming pass of the calibration data through the float model.

ONNX Runtime runs the model once for each sample, with the tensors in question as its outputs, several samples side by
side (graph/session.py). Of each tensor a histogram of 32 KiB is kept (histogram.py), so memory does not grow with the
number of samples. Where the tensors in question do not fit into memory together, there is a pass for each part of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from threading import Lock

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.session import (
    Tensors,
    parts_that_fit,
    session,
    side_by_side,
    tensor_bytes,
    threads_in,
)
from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.samples import Samples
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import track

FETCHED_BYTES = 2 << 30
REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean")  # a maximum may pass over NaN, a mean never does


def collect(model: ir.Model, samples: Samples, tensors: Sequence[str]) -> dict[str, Histogram]:
    """Returns histograms of the named float32 tensors over all samples.

    Args:
        tensors: names of node outputs or of graph inputs.

    Returns:
        One histogram per name, in the order of `tensors`.

    Raises:
        UserError: a tensor holds NaN or infinity; the message names it and the sample.
    """
    histograms = {name: Histogram() for name in tensors}
    locks = {name: Lock() for name in tensors}

    def count(tensors_of: Tensors, names: Sequence[str], run: int) -> None:
        arrays = tensors_of(samples.load(run))
        for name in names:
            try:
                with locks[name]:
                    histograms[name].add(arrays[name], run)
            except ValueError as error:
                raise _not_finite(name, samples.names[run]) from error

    sizes = {value.name: tensor_bytes(value) for node in model.graph for value in node.outputs}
    groups = parts_that_fit(tensors, lambda name: sizes.get(name, 0), FETCHED_BYTES)  # several for D7 at 1536 pixels
    with track(total=len(samples) * len(groups), desc="ranges", unit="run") as bar:
        for names in groups:
            tensors_of = Tensors(model, names)
            counted = functools.partial(count, tensors_of, names)
            for _ in side_by_side(counted, range(len(samples)), tensors_of.threads):
                bar.update()
    return histograms


def _not_finite(tensor: str, sample: str) -> UserError:
    return UserError(
        f"tensor '{tensor}' is NaN or infinite on '{sample}': expected finite activations; "
        "look at that image, or at the weights of the model"
    )


def collect_amax(model: ir.Model, samples: Samples, tensors: Sequence[str]) -> dict[str, float]:
    """Returns the largest magnitude of each named float32 node output over all samples.

    The reduction is part of the graph that runs, so three numbers per tensor are fetched instead of the tensor: this
    serves where nearly every tensor of a large model is asked for.

    Raises:
        UserError: as `collect`.
    """
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    outputs = []
    # ONNX Runtime works its way back from the last node. With the reductions of the first tensors at the end, they are
    # done as soon as their tensor is there; the other way round all tensors stay in memory (D0: 1,307 against 388 MiB).
    for name in reversed(tensors):
        for operator in REDUCTIONS:
            end = ir.Value(name=f"{name}__{operator}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
            model.graph.append(ir.node(operator, [values[name]], {"keepdims": 0}, outputs=[end]))
            outputs.append(end)
    model.graph.outputs[:] = outputs
    amax = dict.fromkeys(tensors, 0.0)
    if not tensors:
        return amax
    running = session(model)

    def extremes_of(run: int) -> np.ndarray:
        reduced = np.asarray(running.run(None, samples.load(run)), np.float32).reshape(-1, len(REDUCTIONS))[::-1]
        empty = (reduced[:, 0] == np.inf) & (reduced[:, 1] == -np.inf)  # a tensor of no rows, such as of no boxes
        extremes: np.ndarray = np.where(empty, 0, np.abs(reduced).max(axis=1))
        return extremes

    runs = side_by_side(extremes_of, range(len(samples)), threads_in(running))
    shown = track(runs, total=len(samples), desc="extremes", unit="run")
    for sample, extremes in zip(samples.names, shown, strict=True):
        for name, extreme in zip(tensors, extremes, strict=True):
            if not np.isfinite(extreme):
                raise _not_finite(name, sample)
            amax[name] = max(amax[name], float(extreme))
    return amax
