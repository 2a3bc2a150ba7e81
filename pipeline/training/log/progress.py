"""Shows a training's progress, or a fine-tuning's: a bar with the losses, or without a terminal a line every half a
minute."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tqdm import tqdm

from effedge.deploy.common.messages import log, track

LINE_SECONDS = 30.0
SMOOTHING = 0.98


class TrainingProgress:
    """Running averages of the loss's parts over about 50 steps, shown with the speed and the time left.

    Args:
        start, steps: the first step, and the last one's number.
        batch: images of a step.
        name: of the work.
    """

    def __init__(self, start: int, steps: int, batch: int, name: str = "training"):
        self.averages: dict[str, float] = {}
        self.steps, self.batch = steps, batch
        self.bar = track(total=steps, initial=start, unit="step", desc=name)
        self.start, self.started = start, time.monotonic()
        self.last_line = self.last_step = self.started

    def step(self, done: int, losses: Mapping[str, float]) -> float:
        """Adds the losses of a step, `done` steps being complete; returns the images per second of this step."""
        for name, loss in losses.items():
            self.averages[name] = SMOOTHING * self.averages.get(name, loss) + (1 - SMOOTHING) * loss
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in self.averages.items()}, refresh=False)
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and now - self.last_line > LINE_SECONDS:
            seconds = (now - self.started) / (done - self.start)
            left = tqdm.format_interval(seconds * (self.steps - done))
            averages = " ".join(f"{name} {value:.3g}" for name, value in self.averages.items())
            log.info(f"step {done}/{self.steps}: {averages}, {self.batch / seconds:.1f} images a second, {left} left")
            self.last_line = now
        speed, self.last_step = self.batch / max(now - self.last_step, 1e-9), now
        return speed
