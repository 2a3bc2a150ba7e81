"""Runs one step of a training: the loss, its gradients over all processes, the optimizer and the moving average."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effedge.pipeline.models.dropout import part_of_batch
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.tables import normalization
from effedge.pipeline.training.data.batches import Batch, DetectionBatch
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS, ProcessGroup
from effedge.pipeline.training.log.state import TrainingState
from effedge.pipeline.training.losses import detection_loss
from effedge.pipeline.training.optimizer import learning_rate
from effedge.pipeline.training.options import Options
from effedge.pipeline.training.progressive.mixup import draw_weights, mix_images, mix_losses
from effedge.pipeline.training.progressive.stages import stage_at
from effedge.pipeline.training.recipes import RECIPES

LABEL_SMOOTHING = 0.1  # Szegedy et al. 2016, section 7; EfficientNet's code release


def make_normalize(model: str, device: torch.device = SINGLE_PROCESS.device) -> Callable[[Tensor], Tensor]:
    """Makes the function from uint8 [N,H,W,3] to normalized float [N,3,H,W].

    Its output is in channels-last memory, which trains twice as fast on CPUs.
    """
    mean, std = (torch.tensor(values, device=device).mul(255.0) for values in normalization(model))
    return lambda images: ((images - mean) / std).permute(0, 3, 1, 2)


def at_least_float32(x: Tensor) -> Tensor:
    """Converts a bfloat16 output of the forward pass to float32 for the loss, whose sums are long."""
    return x.float() if x.dtype == torch.bfloat16 else x


def loss_divisor(batch: Batch) -> int:
    """Returns the number that a batch's loss is divided by: of its positive anchors, or of its images."""
    return len(batch.anchor_indices) if isinstance(batch, DetectionBatch) else len(batch.class_ids)


def batch_loss(
    model: nn.Module, images: Tensor, batch: Batch, classes: int, divisor: float | None = None,
    weights: Tensor | None = None, box_loss: str = "huber",
) -> dict[str, Tensor]:  # fmt: skip
    """Computes the parts of the loss by name; their sum is minimized.

    Args:
        images: the normalized images of `batch`.
        divisor: `loss_divisor` of the whole batch, where `batch` is a part of it.
        weights: of mixup, [N], by which a classifier's `images` are mixed before the forward pass.
        box_loss: of a detector, a key of `effedge.pipeline.training.losses.BOX_LOSSES`.
    """
    if isinstance(batch, DetectionBatch):
        class_levels, box_levels = (list(map(at_least_float32, levels)) for levels in model(images))
        of_classes, of_boxes = detection_loss(class_levels, box_levels, batch.targets, classes, divisor, box_loss)
        return {"class": of_classes, "box": of_boxes}
    logits = at_least_float32(model(images if weights is None else mix_images(images, weights)))
    losses = F.cross_entropy(logits, batch.class_ids, label_smoothing=LABEL_SMOOTHING, reduction="none")
    if weights is not None:
        partner = F.cross_entropy(logits, batch.class_ids.flip(0), label_smoothing=LABEL_SMOOTHING, reduction="none")
        losses = mix_losses(losses, partner, weights)
    return {"class": losses.sum() / (divisor or loss_divisor(batch))}


def train_step(
    state: TrainingState, forward: nn.Module, parts: Sequence[Batch], normalize: Callable[[Tensor], Tensor],
    options: Options, classes: int, group: ProcessGroup,
) -> dict[str, float]:  # fmt: skip
    """Runs one step, in place.

    Args:
        forward: the model, as its forward pass is to be called (`ProcessGroup.wrap`).
        parts: of this process's share of the batch, one for each forward and backward pass.

    Returns:
        The parts of the whole batch's loss, and the learning rate as "rate".

    Raises:
        UserError: a loss that is not finite.
    """
    rate = learning_rate(state.step, options.steps, options.rate, options.warmup, options.falling)
    for parameter_group in state.optimizer.param_groups:
        parameter_group["lr"] = rate
    parts = [type(part)(*(tensor.to(group.device, non_blocking=True) for tensor in part)) for part in parts]
    [divisor] = group.total([float(sum(map(loss_divisor, parts)))])
    first = group.rank * options.batch // group.world_size
    weights = None
    if isinstance(state.model, EfficientNet):
        stage = stage_at(options, state.step)
        state.model.dropout = stage.dropout
        if stage.mixup:
            weights = draw_weights(stage.mixup, options.seed, state.step, options.batch).to(group.device)
    losses: dict[str, float] = {}
    state.optimizer.zero_grad()
    for index, part in enumerate(parts):
        autocast = torch.autocast(group.device.type, torch.bfloat16, enabled=options.precision == "bf16")
        # The processes add up their gradients once, with the last part.
        wait = isinstance(forward, nn.parallel.DistributedDataParallel) and index < len(parts) - 1
        with forward.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
            with part_of_batch(options.seed, state.step, first, options.batch), autocast:
                of_part = None if weights is None else weights[first : first + len(part.images)]
                part_losses = batch_loss(forward, normalize(part.images), part, classes, divisor, of_part,
                                         options.box_loss)  # fmt: skip
            loss = torch.stack(list(part_losses.values())).sum()
            (loss * group.world_size).backward()  # DistributedDataParallel takes the mean over the processes
        first += len(part.images)
        for name, value in part_losses.items():
            losses[name] = losses.get(name, 0.0) + value.item()
    losses = dict(zip(losses, group.total(list(losses.values())), strict=True))
    total = sum(losses.values())
    if not math.isfinite(total):
        raise group.error(f"the loss became {total} at step {state.step}: lower --rate (it is {options.rate})")
    nn.utils.clip_grad_norm_(state.model.parameters(), RECIPES[options.recipe].clip)
    state.optimizer.step()
    state.ema.update(state.model, state.step)
    state.step += 1
    return {**losses, "rate": rate}
