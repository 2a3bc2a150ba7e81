"""The options of a training: what the command line says, checked."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from deploy.cli import Parser, UserError
from pipeline.augment import JITTER, Variety
from pipeline.efficientnet import DROP_CONNECT
from pipeline.training_data import DIGITS
from pipeline.zoo import input_size


@dataclasses.dataclass(frozen=True)
class Options:
    """What makes a run: two runs with equal options and data come to the same weights."""

    model: str
    data: str
    size: int
    steps: int
    batch: int
    rate: float
    warmup: int
    decay: float
    drop_connect: float
    seed: int
    init: str | None
    flips: bool = True
    freeze_norm: bool = False
    turns: bool = False
    colour: float = 0.0
    jitter: tuple[float, float] = JITTER

    @property
    def variety(self) -> Variety:
        return Variety(self.flips, self.turns, self.colour, self.jitter)

    def check(self) -> None:
        """UserError for a number that makes no run."""
        for name, least in (("steps", 1), ("batch", 2), ("warmup", 0), ("decay", 0), ("drop_connect", 0), ("seed", 0)):
            if getattr(self, name) < least:
                why = " (BatchNorm needs several pictures)" if name == "batch" else ""
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more{why}")
        if not 0 < self.rate < math.inf:
            raise UserError(f"--rate {self.rate}: expected a number above 0, such as 1e-3")
        if self.freeze_norm and self.init is None:
            raise UserError("--freeze-norm keeps the statistics of a trained model: give it with --init")
        if self.drop_connect >= 1:
            raise UserError(f"--drop-connect {self.drop_connect}: expected less than 1, the share of samples dropped")
        if not 0 <= self.colour < 1:
            raise UserError(f"--colour {self.colour}: expected 0 to 1, the share by which colours may change")
        if not 0 < self.jitter[0] <= self.jitter[1] < math.inf:
            raise UserError(f"--jitter {self.jitter[0]} {self.jitter[1]}: expected 0 < LEAST <= GREATEST")


def make_parser(description: str) -> Parser:
    parser = Parser(prog="pipeline.train", description=description)
    parser.add_argument("model")
    parser.add_argument("--data", default=DIGITS, help="what to learn from (see above); default: digits")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of DATA's pictures, if not beside it")
    parser.add_argument("--val", metavar="DATA", help="what to validate on; default: none, or unseen digits for digits")
    parser.add_argument("--val-images", metavar="DIR", type=Path, help="folder of its pictures; default: --images")
    parser.add_argument("--validate-every", metavar="N", type=int, help="steps; default: only at the end")
    parser.add_argument("--size", type=int, help="side of the input in pixels (default: the model's)")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=100, help="steps of linear warm-up")
    parser.add_argument("--decay", type=float, default=1e-2, help="weight decay")
    parser.add_argument("--drop-connect", type=float, default=DROP_CONNECT, help="stochastic depth at the last block")
    flips = "never mirror pictures: where left and right differ, as in text"
    parser.add_argument("--no-flips", dest="flips", action="store_false", help=flips)
    turns = "turn pictures by quarters too: where there is no up, as under a microscope"
    parser.add_argument("--turns", action="store_true", help=turns)
    colour = "vary brightness, contrast and saturation by up to this share, such as 0.3 (default: 0)"
    parser.add_argument("--colour", type=float, default=0.0, metavar="SHARE", help=colour)
    jitter = "scales of a detector's pictures, 1 being the letterbox's; narrow for objects of one size (default: 0.1 2)"
    parser.add_argument(
        "--jitter", nargs=2, type=float, default=list(JITTER), metavar=("LEAST", "GREATEST"), help=jitter
    )
    freeze = (
        "normalize by the statistics of --init, as the engine will, not by each batch's own: for a detector's last "
        "steps, where a batch is too small to stand for the pictures to come"
    )
    parser.add_argument("--freeze-norm", action="store_true", help=freeze)
    parser.add_argument("--seed", type=int, default=0)
    init = "a checkpoint to start from, of this model or its backbone: a path, or MODEL:WEIGHTS, such as b0:imagenet"
    parser.add_argument("--init", help=init)
    parser.add_argument("--out", type=Path, required=True, help="the weights to write, .safetensors")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return parser


def read_options(given: argparse.Namespace) -> Options:
    """What makes the run out of all that was given; UserError for an unknown model or a number that makes no run."""
    fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(Options)}
    least, greatest = given.jitter
    options = Options(**(fields | {"size": input_size(given.model, given.size), "jitter": (least, greatest)}))
    options.check()
    if given.validate_every is not None and given.validate_every < 1:
        raise UserError(f"--validate-every {given.validate_every}: expected 1 or more steps")
    if given.validate_every and given.val is None and options.data != DIGITS:
        raise UserError("--validate-every needs pictures to validate on: give them with --val")
    return options
