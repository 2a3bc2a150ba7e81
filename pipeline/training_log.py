"""What a training says while it runs: a progress bar with the loss, or a line now and then without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor
from tqdm import tqdm

from engines.stage import progress_disabled

LINE_SECONDS = 30.0
SMOOTHING = 0.98


class TrainingLog:
    """Running averages of the loss's parts over about 50 steps, shown with the time left."""

    def __init__(self, start: int, steps: int, quiet: bool):
        self.averages: dict[str, float] = {}
        self.steps, self.quiet = steps, quiet
        self.bar = tqdm(total=steps, initial=start, disable=progress_disabled(quiet), unit="step", desc="training")
        self.start, self.started = start, time.monotonic()
        self.lined = self.started

    def step(self, done: int, parts: Mapping[str, Tensor]) -> None:
        """Take in the loss of a step; `done` counts it."""
        for name, value in parts.items():
            now = value.item()
            self.averages[name] = SMOOTHING * self.averages.get(name, now) + (1 - SMOOTHING) * now
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in self.averages.items()}, refresh=False)
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and not self.quiet and now - self.lined > LINE_SECONDS:
            left = (now - self.started) / (done - self.start) * (self.steps - done)
            losses = " ".join(f"{name} {value:.3f}" for name, value in self.averages.items())
            print(f"step {done}/{self.steps}: {losses}, {tqdm.format_interval(left)} left", flush=True)
            self.lined = now

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(line)
