"""Holds the settings of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from effedge.deploy.common.cli import UserError


@dataclass(frozen=True)
class Tuning:
    """The settings of a fine-tuning.

    steps: of the optimizer.
    batch: samples a step; their gradients are added up one by one, as a folded BatchNorm needs no batch.
    rate: the highest learning rate, in INT8 steps of a weight's output channel: Adam moves a weight by at most about
        that much at a time.
    seed: of the samples' order.
    """

    steps: int = 300
    batch: int = 4
    rate: float = 0.05
    seed: int = 0

    def check(self) -> None:
        """Raises UserError for a number that makes no run."""
        for name, least in (("steps", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: expected {least} or more")
        if not 0 < self.rate <= 1:
            raise UserError(f"--rate {self.rate}: expected a number above 0 and at most 1, such as 0.05")
