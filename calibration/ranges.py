"""The ranges of activations, from one streaming pass of the calibration data through the float model.

ONNX Runtime runs the model once for each sample, with the tensors in question as its outputs. What is kept of them
is a histogram of 32 KiB per tensor (histogram.py), so memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
from tqdm import tqdm

from calibration.histogram import Histogram
from calibration.onnx_file import session
from calibration.samples import Samples
from deploy.cli import UserError
from engines.stage import progress_disabled

REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean")  # a maximum may pass over NaN, a mean never does


def collect(model: ir.Model, samples: Samples, tensors: Sequence[str], *, quiet: bool = False) -> dict[str, Histogram]:
    """Histograms of the named float32 tensors over all samples.

    Args:
        tensors: names of node outputs or of graph inputs.

    Returns:
        One histogram per name, in the order of `tensors`.

    Raises:
        UserError: a tensor holds NaN or infinity; the message names it and the sample.
    """
    histograms = {name: Histogram() for name in tensors}
    given = {value.name for value in model.graph.inputs}
    fetched = [name for name in tensors if name not in given]
    if not tensors:
        return histograms
    running = session(model, fetched) if fetched else None
    for sample, feeds in tqdm(samples, desc="ranges", unit="run", disable=progress_disabled(quiet)):
        arrays = running.run(fetched, feeds) if running else []
        for name, values in _in_order(tensors, fetched, arrays, feeds):
            try:
                histograms[name].add(values)
            except ValueError as error:
                raise UserError(
                    f"tensor '{name}' is NaN or infinite on '{sample}': expected finite activations; "
                    "look at that image, or at the weights of the model"
                ) from error
    return histograms


def _in_order(
    tensors: Sequence[str], fetched: Sequence[str], arrays: Sequence[np.ndarray], feeds: dict[str, np.ndarray]
) -> Iterable[tuple[str, np.ndarray]]:
    """(name, values) of every tensor; the first one that went wrong is then the first that an error names."""
    found = dict(zip(fetched, arrays, strict=True))
    for name in tensors:
        yield name, found[name] if name in found else feeds[name]


def collect_amax(model: ir.Model, samples: Samples, tensors: Sequence[str], *, quiet: bool = False) -> dict[str, float]:
    """The largest magnitude of each named float32 node output over all samples.

    The reduction is part of the graph that runs, so three numbers per tensor are fetched instead of the tensor: this
    serves where nearly every tensor of a large model is asked for.

    Raises:
        UserError: as `collect`.
    """
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    outputs = []
    for name in tensors:
        for operator in REDUCTIONS:
            end = ir.Value(name=f"{name}__{operator}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
            model.graph.append(ir.node(operator, [values[name]], {"keepdims": 0}, outputs=[end]))
            outputs.append(end)
    model.graph.outputs[:] = outputs
    amax = dict.fromkeys(tensors, 0.0)
    if not tensors:
        return amax
    running = session(model)
    for sample, feeds in tqdm(samples, desc="extremes", unit="run", disable=progress_disabled(quiet)):
        extremes = np.abs(np.asarray(running.run(None, feeds), np.float32)).reshape(-1, len(REDUCTIONS)).max(axis=1)
        for name, extreme in zip(tensors, extremes, strict=True):
            if not np.isfinite(extreme):
                raise UserError(
                    f"tensor '{name}' is NaN or infinite on '{sample}': expected finite activations; "
                    "look at that image, or at the weights of the model"
                )
            amax[name] = max(amax[name], float(extreme))
    return amax
