"""What a training says while it runs: a progress bar with the loss, or a line now and then without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tqdm import tqdm

from effedge.engines.stage import progress_disabled

LINE_SECONDS = 30.0
SMOOTHING = 0.98


class TrainingLog:
    """Running averages of the loss's parts over about 50 steps, shown with the speed and the time left."""

    def __init__(self, start: int, steps: int, batch: int, quiet: bool):
        self.averages: dict[str, float] = {}
        self.steps, self.batch, self.quiet = steps, batch, quiet
        self.bar = tqdm(total=steps, initial=start, disable=progress_disabled(quiet), unit="step", desc="training")
        self.start, self.started = start, time.monotonic()
        self.lined = self.last = self.started

    def step(self, done: int, losses: Mapping[str, float]) -> float:
        """Take in the loss of a step; `done` counts it. Returns the pictures a second since the step before."""
        for name, now in losses.items():
            self.averages[name] = SMOOTHING * self.averages.get(name, now) + (1 - SMOOTHING) * now
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in self.averages.items()}, refresh=False)
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and not self.quiet and now - self.lined > LINE_SECONDS:
            seconds = (now - self.started) / (done - self.start)
            left = tqdm.format_interval(seconds * (self.steps - done))
            losses_now = " ".join(f"{name} {value:.3f}" for name, value in self.averages.items())
            line = f"step {done}/{self.steps}: {losses_now}, {self.batch / seconds:.1f} pictures a second, {left} left"
            print(line, flush=True)
            self.lined = now
        speed, self.last = self.batch / max(now - self.last, 1e-9), now
        return speed

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(line)
