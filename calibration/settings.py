"""How a model is to be quantized."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effedge.calibration.ranges.thresholds import AUTO, CHOICES
from effedge.deploy.common.cli import UserError, choose

if TYPE_CHECKING:
    import onnx_ir as ir

SHARE = 0.048


@dataclass(frozen=True)
class Settings:
    """How to quantize.

    method: of the thresholds, one of thresholds.CHOICES.
    correction: fit weights and biases to the float model (correct.py); else weights are rounded to the nearest.
    zero_points: of activations that reach far to one side only; TensorRT takes none.
    float_share: the share of multiply-accumulates that may stay in 16 bit for the sake of accuracy.
    """

    method: str = AUTO
    correction: bool = True
    float_share: float = SHARE
    zero_points: bool = False

    def check(self) -> None:
        """UserError for a method or a share that is none."""
        choose("method", self.method, CHOICES)
        if not 0 <= self.float_share <= 1:
            raise UserError(f"--float-share {self.float_share}: expected 0 (all in INT8) to 1")


DEFAULT = Settings()


@dataclass(frozen=True)
class Budget:
    """What INT8 may lose against the float model (budget.py).

    max_drop: in the unit of `accuracy`.
    accuracy: of a model, more is better; by default minus the damage (damage.py), which needs no labels.
    unit: of both, in words.
    record: what else the outcome depends on, for the stage's record: JSON values.
    code: the modules that compute `accuracy`, for the stage's record.
    """

    max_drop: float
    accuracy: Callable[[ir.Model], float] | None = None
    unit: str = "damage"
    record: tuple[tuple[str, Any], ...] = ()
    code: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """For the stage's record."""
        return {"max_drop": self.max_drop, "unit": self.unit, **dict(self.record)}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options of a command that quantizes."""
    parser.add_argument("--method", default=DEFAULT.method, help=f"thresholds: {', '.join(CHOICES)} (%(default)s)")
    parser.add_argument("--no-correction", dest="correction", action="store_false", help="round weights to the nearest")
    share = "share of multiply-accumulates that may stay in 16 bit for accuracy (%(default)s)"
    parser.add_argument("--float-share", type=float, default=DEFAULT.float_share, metavar="X", help=share)


def read_settings(given: argparse.Namespace) -> Settings:
    """What `add_settings` took; UserError as `Settings.check`."""
    settings = Settings(given.method, given.correction, given.float_share)
    settings.check()
    return settings
