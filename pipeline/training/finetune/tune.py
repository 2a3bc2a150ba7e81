"""Fine-tunes INT8 weights and biases: a student in INT8 arithmetic learns the outputs of the float model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from effedge.calibration.ranges.samples import Samples
from effedge.deploy.common.cli import UserError
from effedge.pipeline.training.finetune.distill import Heads, find_heads
from effedge.pipeline.training.finetune.graph import OnnxModule
from effedge.pipeline.training.finetune.tuning import Tuning
from effedge.pipeline.training.log.progress import TrainingProgress

BETAS = (0.9, 0.99)
WARMUP = 0.05  # of the steps
GRADIENT_NORM = 1.0


def tune(teacher: ir.Model, student: ir.Model, samples: Samples, tuning: Tuning) -> None:
    """Fine-tunes the INT8 weights and the biases of `student`, in place, to the outputs of `teacher`, its float model.

    Raises:
        UserError: an operator that cannot be trained through; a loss that is not finite.
    """
    heads = find_heads(teacher)
    reference, learner = OnnxModule(teacher, [*heads.tensors, *heads.chosen]), OnnxModule(student, heads.tensors)
    reference.requires_grad_(False)
    optimizer = torch.optim.Adam(learner.parameters(), betas=BETAS)
    order = np.random.default_rng(tuning.seed)
    queue: list[int] = []
    progress = TrainingProgress(0, tuning.steps, tuning.batch, "fine-tuning")
    with contextlib.closing(progress.bar):
        for step in range(tuning.steps):
            for group in optimizer.param_groups:
                group["lr"] = tuning.rate * schedule(step, tuning.steps)
            optimizer.zero_grad()
            total = 0.0
            for _ in range(tuning.batch):
                queue = queue or order.permutation(len(samples)).tolist()
                feeds = {name: torch.from_numpy(array) for name, array in samples.load(queue.pop()).items()}
                loss = sample_loss(reference, learner, feeds, heads) / tuning.batch
                loss.backward()
                total += loss.item()
            if not math.isfinite(total):
                raise UserError(f"the loss became {total} at step {step}: lower --rate (it is {tuning.rate})")
            torch.nn.utils.clip_grad_norm_(learner.parameters(), GRADIENT_NORM)
            optimizer.step()
            progress.step(step + 1, {"loss": total})
    learner.write(student)


def sample_loss(reference: OnnxModule, learner: OnnxModule, feeds: Mapping[str, Tensor], heads: Heads) -> Tensor:
    """Computes the loss of one sample."""
    with torch.no_grad():
        outputs = reference(feeds)
    compared = len(heads.tensors)
    chosen = dict(zip(heads.chosen, outputs[compared:], strict=True))
    return heads.loss(outputs[:compared], learner({**feeds, **chosen}))


def schedule(step: int, steps: int) -> float:
    """Computes the factor of the learning rate: a line up to 1 over the warm-up, then a cosine to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
