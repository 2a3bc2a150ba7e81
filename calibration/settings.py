"""Defines the settings of a calibration, its budget, and the command-line options for the settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effedge.calibration.ranges.thresholds import AUTO, METHODS
from effedge.deploy.common.cli import UserError, choose
from effedge.engines.targets import CONVOLUTION_KINDS

if TYPE_CHECKING:
    import onnx_ir as ir

FLOAT_SHARE = 0.048
# The meaning of an output, by the user's word (output_error/kinds.py).
BOXES, SCORES, LOGITS, DETECTIONS, LABELS, VALUES = "boxes", "scores", "logits", "detections", "labels", "values"
OUTPUT_KINDS = (BOXES, SCORES, LOGITS, DETECTIONS, LABELS, VALUES)


@dataclass(frozen=True)
class Settings:
    """The settings of a calibration.

    method: of the thresholds, one of thresholds.METHODS.
    correction: round weights by what they do at their layers' outputs (weights/round_weights.py); else to the nearest.
    float_share: the share of multiply-accumulates that may stay in 16 bit for the sake of accuracy.
    zero_points: of activations that reach far to one side only; TensorRT takes none.
    float_kinds: the kinds of convolutions with groups that stay in 16 bit for the sake of latency. None: those of the
        target, or where there is no target, none.
    output_kinds: of outputs (name, one of OUTPUT_KINDS) whose meaning is not to be guessed.
    """

    method: str = AUTO
    correction: bool = True
    float_share: float = FLOAT_SHARE
    zero_points: bool = False
    float_kinds: tuple[str, ...] | None = None
    output_kinds: tuple[tuple[str, str], ...] = ()

    def check(self) -> None:
        """Raises UserError for an unknown method or kind of convolution or output, or a share outside 0 to 1."""
        choose("method", self.method, METHODS)
        for kind in self.float_kinds or ():
            choose("kind of convolution", kind, CONVOLUTION_KINDS)
        for _, kind in self.output_kinds:
            choose("kind of output", kind, OUTPUT_KINDS)
        if not 0 <= self.float_share <= 1:
            raise UserError(f"--float-share {self.float_share}: expected 0 (all in INT8) to 1")


DEFAULT = Settings()


@dataclass(frozen=True)
class Budget:
    """The accuracy that INT8 may lose against the float model (search/accuracy_budget.py).

    max_drop: in the unit of `accuracy`.
    accuracy: of a model, more is better; by default minus the output error (output_error/measure.py), which needs no
        labels.
    unit: of both, in words.
    record: further values that the outcome depends on, for the stage's record: JSON values.
    code: the modules that compute `accuracy`, for the stage's record.
    """

    max_drop: float
    accuracy: Callable[[ir.Model], float] | None = None
    unit: str = "output error"
    record: tuple[tuple[str, object], ...] = ()
    code: tuple[str, ...] = ()

    def stage_options(self) -> dict[str, object]:
        """Returns the options for the stage's record."""
        return {"max_drop": self.max_drop, "unit": self.unit, **dict(self.record)}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that quantizes."""
    parser.add_argument("--method", default=DEFAULT.method, help=f"thresholds: {', '.join(METHODS)} (%(default)s)")
    parser.add_argument("--no-correction", dest="correction", action="store_false", help="round weights to the nearest")
    share = "share of multiply-accumulates that may stay in 16 bit for accuracy (%(default)s)"
    parser.add_argument("--float-share", type=float, default=DEFAULT.float_share, metavar="X", help=share)
    kinds = f"kinds of convolutions that stay in 16 bit: {', '.join(CONVOLUTION_KINDS)}, or no word for all in INT8 "
    default = "(default: what the target is not faster with in INT8)"
    parser.add_argument("--float-kinds", nargs="*", metavar="KIND", help=kinds + default)
    add_output_kinds(parser)


def add_output_kinds(parser: argparse.ArgumentParser) -> None:
    """Adds --output-kind, of a command that measures an output error."""
    outputs = f"the meaning of an output, where its line says another: {', '.join(OUTPUT_KINDS)}; may be repeated"
    parser.add_argument("--output-kind", action="append", default=[], metavar="NAME=KIND", help=outputs)


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Returns the settings that the options of `add_settings` ask for; UserError as `Settings.check`."""
    kinds = None if arguments.float_kinds is None else tuple(arguments.float_kinds)
    settings = Settings(
        arguments.method,
        arguments.correction,
        arguments.float_share,
        float_kinds=kinds,
        output_kinds=read_output_kinds(arguments),
    )
    settings.check()
    return settings


def read_output_kinds(arguments: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Returns (name, kind) of each --output-kind; UserError as `read_output_kind`."""
    return tuple(read_output_kind(text) for text in arguments.output_kind)


def read_output_kind(text: str) -> tuple[str, str]:
    """Returns the name and the kind of NAME=KIND; a name may have an equals sign."""
    name, equals, kind = text.rpartition("=")
    if not name or not equals:
        raise UserError(f"--output-kind {text}: expected NAME=KIND, with KIND one of {', '.join(OUTPUT_KINDS)}")
    return name, kind
