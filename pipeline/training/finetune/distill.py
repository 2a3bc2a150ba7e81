"""What the fine-tuned model should say: what the float model says. It needs no labels.

- A detector by the engine's contract: at each anchor the class probabilities (their Kullback-Leibler divergence from
  the float model's, summed over anchors and divided by how much the float model found) and, as far as the float model
  sees something there, the box regression.
- A classifier: the divergence of the softmax (Hinton, Vinyals and Dean 2015, section 2, at temperature 1).
- Anything else: the squared error over the variance where the layers end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from effedge.calibration.search.output_error import SPEC
from effedge.calibration.search.sqnr import last_layers

BOX_WEIGHT = 1.0
LEAST_FOUND = 1.0  # of a picture in which the float model finds nothing
Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]  # (float model's, fine-tuned model's) -> scalar


class Heads(NamedTuple):
    """tensors: names, in both models, of what is compared. loss: of their values."""

    tensors: list[str]
    loss: Loss


def find_heads(model: ir.Model) -> Heads:
    """What to compare of this model."""
    candidates = candidate_tensors(model)
    if candidates:
        return Heads(candidates, detection_loss)
    if json.loads(model.metadata_props.get(SPEC, "{}")).get("task") == "classification":
        return Heads([model.graph.outputs[0].name or ""], classification_loss)
    return Heads(last_layers(model), error_over_variance)


def candidate_tensors(model: ir.Model) -> list[str]:
    """Names of the logits [N,A,C] and the box codes [N,A,4] of a detector by the engine's contract; else nothing."""
    for node in model.graph:
        best = node.inputs[0].producer() if node.op_type == "TopK" and node.inputs[0] is not None else None
        if best is None or best.op_type != "ReduceMax" or best.inputs[0] is None:
            continue
        logits = best.inputs[0]
        gathered = [each.inputs[0] for each in model.graph if each.op_type == "GatherElements"]
        codes = [
            value
            for value in gathered
            if value is not None and value is not logits and value.shape is not None
            and len(value.shape) == 3 and value.shape[2] == 4 and value.producer() is not None
            and value.producer().op_type == "Concat"  # type: ignore[union-attr]
        ]  # fmt: skip
        if codes:
            return [logits.name or "", codes[0].name or ""]
    return []


def detection_loss(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> Tensor:
    """Of logits [N,A,C] and codes [N,A,4]."""
    likely = torch.sigmoid(wanted[0])
    found = likely.sum().clamp(min=LEAST_FOUND)
    entropy = F.binary_cross_entropy_with_logits(wanted[0], likely, reduction="sum")
    divergence = F.binary_cross_entropy_with_logits(got[0], likely, reduction="sum") - entropy
    seen = likely.amax(dim=2, keepdim=True)
    return (divergence + BOX_WEIGHT * (seen * (got[1] - wanted[1]).abs()).sum()) / found


def classification_loss(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> Tensor:
    """Of logits [N,C]."""
    likely = torch.log_softmax(wanted[0], dim=-1)
    return F.kl_div(torch.log_softmax(got[0], dim=-1), likely, log_target=True, reduction="batchmean")


def error_over_variance(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> Tensor:
    """The mean over all tensors."""
    ratios = [
        F.mse_loss(ours, theirs) / theirs.var(correction=0).clamp(min=1e-12)
        for ours, theirs in zip(got, wanted, strict=True)
    ]
    return torch.stack(ratios).mean()
