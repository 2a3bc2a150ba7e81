"""Synchronizes BatchNorm over the batch of all processes, on CPUs.

Batch normalization (Ioffe and Szegedy 2015, algorithm 1) with the mean and the variance of the samples of all
processes. PyTorch's own SyncBatchNorm works on GPUs only, and is used there. Every process has equally many samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def sum_dtype(x: Tensor) -> torch.dtype:
    """Returns the type to sum x in: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


class _Normalize(torch.autograd.Function):
    """(x [N,C,H,W], weight [C], bias [C], eps) -> (normalized x, mean [C], biased variance [C]) of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.to(sum_dtype(x)), (0, 2, 3), correction=0)
        own = torch.stack([variance, mean])
        by_rank = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(by_rank, own)
        variances, means = torch.stack(by_rank).unbind(1)  # both [world size,C]
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Computes the gradients of x, weight and bias.

        With x^ = (x - mean) * s, s = 1 / sqrt(variance + eps) and g the gradient of the output:

            dx = weight * s * (g - mean(g) - x^ * mean(g * x^))

        with means over the samples of all processes. The gradients of weight and bias are this process's own:
        DistributedDataParallel adds them up over the processes.
        """
        x, weight, mean, variance = ctx.saved_tensors
        g = grads[0]
        channel = (1, -1, 1, 1)
        s = torch.rsqrt(variance + ctx.eps)
        normalized = (x - mean.view(channel)) * s.view(channel)
        g = g.to(sum_dtype(g))
        d_bias, d_weight = g.sum((0, 2, 3)), (g * normalized).sum((0, 2, 3))
        sums = torch.stack([d_bias, d_weight])
        dist.all_reduce(sums)
        mean_g, mean_gx = sums / (x.numel() / x.shape[1] * dist.get_world_size())
        d_x = (weight * s).view(channel) * (g - mean_g.view(channel) - normalized * mean_gx.view(channel))
        return d_x.to(x.dtype), d_weight, d_bias, None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batch of all processes in training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        y, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)
        count = x.numel() / x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return y


def synchronize(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every BatchNorm of `model` by one over the batch of all processes; its tensors and keys stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                synced = SyncBatchNorm2d(child.num_features, child.eps, child.momentum, dtype=child.weight.dtype)
                synced.load_state_dict(child.state_dict())
                synced.train(child.training)
                setattr(parent, name, synced)
    return model
