"""Exponential moving average of the weights (Tan and Le 2019, section 5): the average is what is evaluated and kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """Running average of a module's parameters and BatchNorm statistics."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Average in the weights after `step`; early steps count more, so that the random start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.state[key])
                values.append(value)
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from an average that was kept, on whatever device this one is."""
        for key, value in self.state.items():
            value.copy_(state[key])
