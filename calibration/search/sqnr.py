"""Measures the signal-to-quantization-noise ratio at the last layers: 10 log10(sum x^2 / sum (x - x')^2) in dB.

It is taken at the outputs of the last layers (logits, box regressions) and not at the model's outputs: a detector's
candidates come out sorted, and two of them changing places is no noise.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.session import session, side_by_side, threads_in
from effedge.calibration.placement.layers import find_layers
from effedge.calibration.ranges.samples import Samples
from effedge.deploy.common.messages import track

CEILING_DB = 200.0  # for two models that agree to the last bit


def last_layers(model: ir.Model) -> list[str]:
    """Returns the output names of the layers that no other layer follows."""
    layers = {layer.node for layer in find_layers(model.graph)}
    followed: set[ir.Node] = set()  # nodes with a layer behind them
    for node in reversed(model.graph):
        behind = [consumer for output in node.outputs for consumer in output.consumers()]
        if any(consumer in layers or consumer in followed for consumer in behind):
            followed.add(node)
    return [node.outputs[0].name or "" for node in model.graph if node in layers and node not in followed]


def sqnr(reference: ir.Model, changed: ir.Model, samples: Samples, tensors: list[str]) -> dict[str, float]:
    """Returns the ratio in dB of each named tensor over all samples; both models have the tensors by these names."""
    sessions = [session(model, tensors) for model in (reference, changed)]
    signal, noise = np.zeros(len(tensors)), np.zeros(len(tensors))

    def both(run: int) -> list[list[np.ndarray]]:
        feeds = samples.load(run)
        return [running.run(tensors, feeds) for running in sessions]

    runs = side_by_side(both, range(len(samples)), threads_in(sessions[0]))
    for pairs in track(runs, total=len(samples), desc="SQNR", unit="run"):
        for index, (expected, got) in enumerate(zip(*pairs, strict=True)):
            signal[index] += np.square(expected, dtype=np.float64).sum()
            noise[index] += np.square(expected.astype(np.float64) - got).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = np.where(noise > 0, 10 * np.log10(signal / noise), CEILING_DB)
    return {name: round(float(value), 2) for name, value in zip(tensors, decibels, strict=True)}
