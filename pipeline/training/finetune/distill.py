"""Computes the distillation loss between the fine-tuned model and the float model; no labels are needed.

- A detector of ours: the Kullback-Leibler divergence of the class probabilities from the float model's, summed over the
  anchors and divided by the sum of the float model's probabilities; and the absolute error of the box regression,
  weighted by the float model's best probability at the anchor.
- Another project's detector with the engine's outputs: the same divergence of all scores from which its TopK nodes
  choose candidates, and what the boxes of the float model's candidates lack of full overlap (IoU as a loss), weighted
  by their scores. Where an operator of it cannot be differentiated, it is any other model.
- A classifier: the divergence of the softmax (Hinton, Vinyals and Dean 2015, section 2, at temperature 1).
- Any other model: the squared error over the variance, at the outputs of the last layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from effedge.calibration.search.sqnr import last_layers
from effedge.deploy.common.contracts import SPEC_KEY
from effedge.pipeline.training.finetune.graph import is_supported, needed_nodes

BOX_WEIGHT = 1.0
LEAST_SCORE = 1e-6
SELECTED = ["boxes", "scores"]  # the outputs of a detector's engine
LEAST_AREA = 1e-6  # square pixels
LEAST_PROBABILITY = 1.0  # the least divisor: of an image in which the float model detects nothing
Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]  # (teacher's tensors, student's tensors) -> scalar


class Heads(NamedTuple):
    """The tensors that are compared, by their names in both models, and the loss of their values.

    chosen: the indices that the float model's TopK nodes find, which the student takes too.
    """

    tensors: list[str]
    loss: Loss
    chosen: Sequence[str] = ()


def find_heads(model: ir.Model) -> Heads:
    """Finds the tensors of `model` to compare."""
    candidates = candidate_tensors(model)
    if candidates:
        return Heads(candidates, detection_loss)
    task = json.loads(model.metadata_props.get(SPEC_KEY, "{}")).get("task")
    if task == "classification":
        return Heads([model.graph.outputs[0].name or ""], classification_loss)
    if task == "detection" and all(map(is_supported, needed_nodes(model, SELECTED))):
        choices = [node for node in model.graph if node.op_type == "TopK"]
        compared = SELECTED + [node.inputs[0].name or "" for node in choices if node.inputs[0] is not None]
        return Heads(compared, selection_loss, [node.outputs[1].name or "" for node in choices])
    return Heads(last_layers(model), error_over_variance)


def candidate_tensors(model: ir.Model) -> list[str]:
    """Names the logits [N,A,C] and the box codes [N,A,4] of a detector with the engine's outputs; empty for others."""
    for node in model.graph:
        best = node.inputs[0].producer() if node.op_type == "TopK" and node.inputs[0] is not None else None
        if best is None or best.op_type != "ReduceMax" or best.inputs[0] is None:
            continue
        logits = best.inputs[0]
        gathered = [reader.inputs[0] for reader in model.graph if reader.op_type == "GatherElements"]
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


def detection_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Computes the loss of logits [N,A,C] and codes [N,A,4]."""
    probabilities = torch.sigmoid(teacher[0])
    entropy = F.binary_cross_entropy_with_logits(teacher[0], probabilities, reduction="sum")
    divergence = F.binary_cross_entropy_with_logits(student[0], probabilities, reduction="sum") - entropy
    box_error = (probabilities.amax(dim=2, keepdim=True) * (student[1] - teacher[1]).abs()).sum()
    return (divergence + BOX_WEIGHT * box_error) / probabilities.sum().clamp(min=LEAST_PROBABILITY)


def selection_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Computes the loss of the same candidates' boxes [N,K,4], xyxy, and scores [N,K], and of all scores, in tensors of
    any shape, from which candidates are chosen."""
    (boxes, weights, *scores), (student_boxes, _, *student_scores) = teacher, student
    divergence = sum(score_divergence(one, other) for one, other in zip(scores, student_scores, strict=True))
    box_error = (weights * (1 - overlap(boxes, student_boxes))).sum()
    return (divergence + BOX_WEIGHT * box_error) / weights.sum().clamp(min=LEAST_PROBABILITY)


def score_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Computes the Kullback-Leibler divergence of probabilities, or of logits, which leave the range from 0 to 1."""
    if teacher.min() < 0 or teacher.max() > 1:
        teacher, student = torch.sigmoid(teacher), torch.sigmoid(student)
    wanted = teacher.clamp(LEAST_SCORE, 1 - LEAST_SCORE)
    divergence = F.binary_cross_entropy(student.clamp(LEAST_SCORE, 1 - LEAST_SCORE), wanted, reduction="sum")
    return divergence - F.binary_cross_entropy(wanted, wanted, reduction="sum")


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Computes the intersection over union of pairs of boxes [..., 4], xyxy."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (one, other))
    return shared / (sum(areas) - shared).clamp(min=LEAST_AREA)


def classification_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Computes the loss of logits [N,C]."""
    log_probabilities = torch.log_softmax(teacher[0], dim=-1)
    return F.kl_div(torch.log_softmax(student[0], dim=-1), log_probabilities, log_target=True, reduction="batchmean")


def error_over_variance(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Computes the squared error over the variance, as the mean over all tensors."""
    ratios = [
        F.mse_loss(student_tensor, teacher_tensor) / teacher_tensor.var(correction=0).clamp(min=1e-12)
        for student_tensor, teacher_tensor in zip(student, teacher, strict=True)
    ]
    return torch.stack(ratios).mean()
