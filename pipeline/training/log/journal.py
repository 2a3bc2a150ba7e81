"""Writes the journal of a training: the losses of every step and the figures of every validation, a JSON object a line.

The journal stands beside the weights (`mine.log.jsonl` beside `mine.safetensors`). Where tensorboardX is installed, the
same goes to TensorBoard files (`mine.tensorboard/`). A resumed run first removes the entries after its checkpoint, so
that the journal reads as that of a run that was never stopped.

    {"step": 7, "class": 0.93, "box": 0.21, "loss": 1.14, "rate": 0.0005, "images_per_second": 11.2}
    {"step": 100, "validation": {"AP": 0.512, "AP50": 0.803}}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effedge.deploy.common.files import atomic_file, explain_os_error


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Reads the entries of a journal; none if there is no such file. A last line that was cut short is left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


class Journal:
    """The journal of a run that is at step `start` and was last validated at step `validated`; entries are appended."""

    def __init__(self, path: Path, tensorboard: Path, start: int, validated: int):
        entries = read_journal(path) if start else []
        kept = [entry for entry in entries if entry["step"] <= (validated if "validation" in entry else start)]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.path = path
        with explain_os_error(path):
            self.file = path.open("a", buffering=1)  # every line is written at once, because a kill may come
        with explain_os_error(tensorboard):
            self.writer = tensorboard_writer(tensorboard, start)

    def step(self, step: int, losses: Mapping[str, float], rate: float, images_per_second: float) -> None:
        losses = {name: _short(value) for name, value in losses.items()}
        speeds = {"rate": _short(rate), "images_per_second": round(images_per_second, 2)}
        self._append({"step": step, **losses, **speeds})
        if self.writer is not None:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, step)
            for name, value in speeds.items():
                self.writer.add_scalar(f"training/{name}", value, step)

    def validation(self, step: int, figures: Mapping[str, float | None]) -> None:
        measured = {name: _short(value) for name, value in figures.items() if value is not None}
        self._append({"step": step, "validation": measured})
        if self.writer is not None:
            for name, value in measured.items():
                self.writer.add_scalar(f"validation/{name}", value, step)

    def _append(self, entry: dict[str, object]) -> None:
        with explain_os_error(self.path):
            self.file.write(json.dumps(entry) + "\n")

    def flush(self) -> None:
        if self.writer is not None:
            with explain_os_error(self.path):
                self.writer.flush()

    def close(self) -> None:
        with explain_os_error(self.path):
            self.file.close()
            if self.writer is not None:
                self.writer.close()


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def tensorboard_writer(folder: Path, start: int) -> Any:
    """Opens a tensorboardX.SummaryWriter that continues after step `start`; None where the package is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    if start == 0:  # remove the events of an earlier run of the same name
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
    return SummaryWriter(str(folder), purge_step=start + 1)
