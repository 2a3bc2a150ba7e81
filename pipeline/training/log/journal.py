"""The journal of a training: every step's losses and every validation's figures, a JSON object a line.

It stands beside the weights (`mine.log.jsonl` beside `mine.safetensors`), with the same for TensorBoard
(`mine.tensorboard/`) where tensorboardX is installed. A run that goes on takes away what lies behind its checkpoint
first, so that the journal reads as that of a run that was never stopped.

    {"step": 7, "class": 0.93, "box": 0.21, "loss": 1.14, "rate": 0.0005, "images_per_second": 11.2}
    {"step": 100, "validation": {"AP": 0.512, "AP50": 0.803}}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effedge.deploy.common.files import explain_os_error, whole_file


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; none if there is no such file. A last line that was cut short is left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


class Journal:
    """Appends to the journal of a run that is at step `start` and was last validated at step `validated`."""

    def __init__(self, path: Path, tensorboard: Path, start: int, validated: int):
        entries = read_journal(path) if start else []
        kept = [entry for entry in entries if entry["step"] <= (validated if "validation" in entry else start)]
        with whole_file(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.path = path
        self.file = path.open("a", buffering=1)  # a line is out at once: a kill may come
        self.writer = tensorboard_writer(tensorboard, start)

    def step(self, step: int, losses: Mapping[str, float], rate: float, images_per_second: float) -> None:
        losses = {name: _short(value) for name, value in losses.items()}
        rest = {"rate": _short(rate), "images_per_second": round(images_per_second, 2)}
        self._append({"step": step, **losses, **rest})
        if self.writer is not None:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, step)
            for name, value in rest.items():
                self.writer.add_scalar(f"training/{name}", value, step)

    def validation(self, step: int, figures: Mapping[str, float | None]) -> None:
        known = {name: _short(value) for name, value in figures.items() if value is not None}
        self._append({"step": step, "validation": known})
        if self.writer is not None:
            for name, value in known.items():
                self.writer.add_scalar(f"validation/{name}", value, step)

    def _append(self, entry: dict[str, Any]) -> None:
        with explain_os_error(self.path):
            self.file.write(json.dumps(entry) + "\n")

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def tensorboard_writer(folder: Path, start: int) -> Any:
    """A tensorboardX.SummaryWriter that goes on behind step `start`; None where the package is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    if start == 0:  # another run's, of the same name
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    return SummaryWriter(str(folder), purge_step=start + 1)
