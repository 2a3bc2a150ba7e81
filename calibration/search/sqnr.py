"""Measures the signal-to-quantization-noise ratio at the last layers: 10 log10(sum x^2 / sum (x - x')^2) in dB.

It is taken at the outputs of the last layers (logits, box regressions) and not at the model's outputs: a detector's
candidates come out sorted, and two of them changing places is no noise.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    """Returns the ratio in dB of each named tensor over all samples; both models have the tensors by these names.

    Values that the float model does not make finite do not count, nor samples on which the tensors differ in shape, as
    behind rows that the model selects. A tensor of which nothing is left is left out.
    """
    sessions = [session(model, tensors) for model in (reference, changed)]
    signal, noise, counts = (np.zeros(len(tensors)) for _ in range(3))

    def both(run: int) -> list[list[np.ndarray]]:
        feeds = samples.load(run)
        return [running.run(tensors, feeds) for running in sessions]

    runs = side_by_side(both, range(len(samples)), threads_in(sessions[0]))
    for pairs in track(runs, total=len(samples), desc="SQNR", unit="run"):
        for index, (expected, got) in enumerate(zip(*pairs, strict=True)):
            if expected.shape != got.shape:
                continue
            known = np.isfinite(expected)
            wanted = expected[known].astype(np.float64)
            actual = np.nan_to_num(got[known].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
            signal[index] += np.square(wanted).sum()
            noise[index] += np.square(wanted - actual).sum()
            counts[index] += wanted.size
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = np.where(noise > 0, np.clip(10 * np.log10(signal / noise), -CEILING_DB, CEILING_DB), CEILING_DB)
    triples = zip(tensors, decibels, counts, strict=True)
    return {name: round(float(value), 2) for name, value, count in triples if count}


def in_words(ratios: Mapping[str, float]) -> str:
    """Returns a text about the ratios of the last layers, by their names."""
    if not ratios:
        return "SQNR not known, as no last layer's output can be compared"
    worst = min(ratios, key=ratios.__getitem__)
    return f"SQNR {sum(ratios.values()) / len(ratios):.1f} dB on average, lowest {ratios[worst]:.1f} dB at '{worst}'"
