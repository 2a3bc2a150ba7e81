"""Keeps an exponential moving average of the weights, which is evaluated and saved (Tan and Le 2019, section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """A running average of a module's parameters and BatchNorm statistics."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Adds the weights after `step` to the average; early steps count more, to forget the random start soon."""
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
        """Restores a saved average, on the device of this one."""
        for key, value in self.state.items():
            value.copy_(state[key])
