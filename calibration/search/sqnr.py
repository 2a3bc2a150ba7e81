"""Signal-to-quantization-noise ratio where the network's layers end: 10 log10(sum x^2 / sum (x - x')^2) in dB.

It is taken at the outputs of the last layers (logits, box regressions) and not at the model's outputs: a detector's
candidates come out sorted, and two of them changing places is no noise.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tqdm import tqdm

from effedge.calibration.graph.onnx_file import session
from effedge.calibration.placement.layers import find_layers
from effedge.calibration.ranges.samples import Samples
from effedge.engines.stage import progress_disabled

CEILING_DB = 200.0  # for two models that agree to the last bit


def last_layers(model: ir.Model) -> list[str]:
    """The output names of the layers behind which there is no other layer."""
    layers = {layer.node for layer in find_layers(model.graph)}
    followed: set[ir.Node] = set()  # nodes with a layer behind them
    for node in reversed(model.graph):
        behind = [consumer for output in node.outputs for consumer in output.consumers()]
        if any(consumer in layers or consumer in followed for consumer in behind):
            followed.add(node)
    return [node.outputs[0].name or "" for node in model.graph if node in layers and node not in followed]


def sqnr(
    reference: ir.Model, changed: ir.Model, samples: Samples, tensors: list[str], *, quiet: bool = False
) -> dict[str, float]:
    """The ratio in dB of each named tensor over all samples; both models have it by that name."""
    sessions = [session(model, tensors) for model in (reference, changed)]
    signal, noise = np.zeros(len(tensors)), np.zeros(len(tensors))
    for _, feeds in tqdm(samples, desc="SQNR", unit="run", disable=progress_disabled(quiet)):
        pairs = zip(*(running.run(tensors, feeds) for running in sessions), strict=True)
        for index, (expected, got) in enumerate(pairs):
            signal[index] += np.square(expected, dtype=np.float64).sum()
            noise[index] += np.square(expected.astype(np.float64) - got).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = np.where(noise > 0, 10 * np.log10(signal / noise), CEILING_DB)
    return {name: round(float(value), 2) for name, value in zip(tensors, decibels, strict=True)}
