"""The options of a training: what the command line says, filled up by the recipe, and checked."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.pipeline.models.zoo import input_size, is_detector
from effedge.pipeline.training.data.augment import JITTER, Variety
from effedge.pipeline.training.data.sources import DIGITS
from effedge.pipeline.training.recipes import RECIPES

PRECISIONS = ("fp32", "bf16")


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
    randaugment: tuple[int, float] | None = None
    recipe: str = "finetune"
    ema: float = RECIPES["finetune"].ema
    falling: tuple[float, float] | None = None  # see effedge.pipeline.training.optimizer.learning_rate
    accumulate: int = 1
    precision: str = "fp32"

    @property
    def variety(self) -> Variety:
        return variety_of(self)


def variety_of(given: argparse.Namespace | Options) -> Variety:
    return Variety(given.flips, given.turns, given.colour, given.jitter, given.randaugment)


def make_parser(description: str) -> Parser:
    parser = Parser(prog="effedge train", description=description)
    add = parser.add_argument
    add("model")
    add("--data", default=DIGITS, help="what to learn from (see above); default: digits")
    add("--images", metavar="DIR", type=Path, help="folder of DATA's pictures, if not beside it")
    add("--val", metavar="DATA", help="what to validate on; default: none, or unseen digits for digits")
    add("--val-images", metavar="DIR", type=Path, help="folder of its pictures; default: --images")
    every = "steps; default: every epoch where the run counts in epochs, otherwise only at the end"
    add("--validate-every", metavar="N", type=int, help=every)
    add("--patience", metavar="N", type=int, help="stop after N validations without gain (default: never)")
    add("--size", type=int, help="side of the input in pixels (default: the model's)")
    names = ", ".join(RECIPES)
    add("--recipe", default="finetune", help=f"{names}: defaults of what follows (default: finetune)")
    add("--steps", type=int)
    add("--epochs", type=float, help="in place of --steps")
    add("--batch", type=int, help="pictures in a step, over all processes")
    add("--accumulate", metavar="N", type=int, default=1, help="go through each batch in N parts, for less memory")
    add("--rate", type=float, help="highest learning rate")
    add("--warmup", type=int, help="steps of linear warm-up")
    add("--decay", type=float, help="weight decay")
    add("--drop-connect", type=float, help="stochastic depth at the last block")
    add("--ema", type=float, metavar="DECAY", help="of the moving average of the weights, such as 0.998")
    flips = "never mirror pictures: where left and right differ, as in text"
    add("--no-flips", dest="flips", action="store_false", help=flips)
    turns = "turn pictures by quarters too: where there is no up, as under a microscope"
    add("--turns", action="store_true", help=turns)
    colour = "vary brightness, contrast and saturation by up to this share, such as 0.3 (default: 0)"
    add("--colour", type=float, default=0.0, metavar="SHARE", help=colour)
    jitter = "scales of a detector's pictures, 1 being the letterbox's; narrow for objects of one size (default: 0.1 2)"
    add("--jitter", nargs=2, type=float, default=list(JITTER), metavar=("LEAST", "GREATEST"), help=jitter)
    randaugment = "RandAugment on a classifier's pictures: N operations of magnitude M, 10 being their ranges' end"
    add("--randaugment", nargs=2, type=float, metavar=("N", "M"), help=randaugment)
    freeze = (
        "normalize by the statistics of --init, as the engine will, not by each batch's own: for a detector's last "
        "steps, where a batch is too small to stand for the pictures to come"
    )
    add("--freeze-norm", action="store_true", help=freeze)
    add("--precision", default="fp32", help="fp32, or bf16 in the forward pass: faster where the processor has it")
    add("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    add("--workers", type=int, metavar="N", help="processes that read pictures (default: 1; on a GPU the cores, to 16)")
    add("--seed", type=int, default=0)
    init = (
        "where to start: a path, random, or published weights of this model, of its backbone (imagenet, for a "
        "detector), or of another (lite0:imagenet); default: random"
    )
    add("--init", help=init)
    add("--out", type=Path, required=True, help="the weights to write, .safetensors")
    add("-q", "--quiet", action="store_true", help="no progress")
    return parser


def take_recipe(given: argparse.Namespace) -> None:
    """Fill up what was not given from the recipe, and check it all.

    Raises UserError for an unknown model or recipe, a recipe of the other task, a number that makes no run.
    """
    given.size = input_size(given.model, given.size)
    recipe = RECIPES[choose("recipe", given.recipe, RECIPES)]
    task = "detection" if is_detector(given.model) else "classification"
    if recipe.task not in (None, task):
        raise UserError(f"--recipe {recipe.name} is for {recipe.task}, {given.model} is for {task}")
    if given.steps is not None and given.epochs is not None:
        raise UserError("--steps and --epochs say the same thing: give one of them")
    if given.steps is None and given.epochs is None:
        given.steps, given.epochs = recipe.steps, recipe.epochs
    given.batch = recipe.batch if given.batch is None else given.batch
    if given.rate is None:
        given.rate = recipe.rate * (given.batch / recipe.batch if recipe.rate_by_batch else 1)
    for name in ("decay", "drop_connect", "ema"):
        if getattr(given, name) is None:
            setattr(given, name, getattr(recipe, name))
    if given.randaugment is None and task == "classification":
        given.randaugment = recipe.randaugment
    if given.randaugment is not None:
        given.randaugment = (int(given.randaugment[0]), float(given.randaugment[1]))
    given.jitter = tuple(given.jitter)
    check(given)


def check(given: argparse.Namespace) -> None:
    """UserError for a number that makes no run."""
    least = {"steps": 1, "batch": 2, "warmup": 0, "decay": 0, "drop_connect": 0, "seed": 0, "accumulate": 1,
             "patience": 1, "validate_every": 1, "workers": 0}  # fmt: skip
    for name, smallest in least.items():
        value = getattr(given, name)
        if value is not None and value < smallest:
            why = " (BatchNorm needs several pictures)" if name == "batch" else ""
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {smallest} or more{why}")
    if given.epochs is not None and not 0 < given.epochs < math.inf:
        raise UserError(f"--epochs {given.epochs}: expected a number above 0")
    if not 0 < given.rate < math.inf:
        raise UserError(f"--rate {given.rate}: expected a number above 0, such as 1e-3")
    if given.freeze_norm and given.init in (None, "random"):
        raise UserError("--freeze-norm keeps the statistics of a trained model: give it with --init")
    if given.drop_connect >= 1:
        raise UserError(f"--drop-connect {given.drop_connect}: expected less than 1, the share of samples dropped")
    if not 0 <= given.ema < 1:
        raise UserError(f"--ema {given.ema}: expected 0 to 1, such as 0.998")
    if not 0 <= given.colour < 1:
        raise UserError(f"--colour {given.colour}: expected 0 to 1, the share by which colours may change")
    if not 0 < given.jitter[0] <= given.jitter[1] < math.inf:
        raise UserError(f"--jitter {given.jitter[0]} {given.jitter[1]}: expected 0 < LEAST <= GREATEST")
    if given.randaugment is not None and (given.randaugment[0] < 0 or not 0 <= given.randaugment[1] <= 30):
        count, magnitude = given.randaugment
        raise UserError(f"--randaugment {count} {magnitude}: expected N of 0 or more and M of 0 to 30")
    choose("precision", given.precision, PRECISIONS)
    if (given.validate_every or given.patience) and given.val is None and given.data != DIGITS:
        option = "--validate-every" if given.validate_every else "--patience"
        raise UserError(f"{option} needs pictures to validate on: give them with --val")


def read_options(given: argparse.Namespace, pictures: int | None, processes: int = 1) -> Options:
    """What makes the run, out of all that was given and filled up; epochs of so many pictures are steps from here on.

    Also decides `given.validate_every`. Raises UserError for epochs of drawn pictures, which have none, and for a batch
    that cannot be split alike.
    """
    recipe, parts = RECIPES[given.recipe], given.accumulate * processes
    if given.batch % parts:
        raise UserError(f"--batch {given.batch} cannot be split into {parts} equal parts ({processes} processes, "
                        f"--accumulate {given.accumulate}): expected a multiple of {parts}")  # fmt: skip
    if given.batch // given.accumulate < 2 and not given.freeze_norm:
        raise UserError(f"--accumulate {given.accumulate} leaves a picture at a time: BatchNorm needs several")
    if pictures is None and (given.epochs is not None or recipe.epochs is not None):
        raise UserError(f"data '{given.data}' is drawn anew and has no epochs: expected --recipe finetune and --steps")
    epoch = (pictures or 0) / given.batch  # in steps
    steps = given.steps if given.epochs is None else max(1, round(given.epochs * epoch))
    if given.epochs is not None and given.validate_every is None and given.val is not None:
        given.validate_every = max(1, round(epoch))
    if given.warmup is None:
        given.warmup = recipe.warmup if recipe.warmup_epochs is None else round(recipe.warmup_epochs * epoch)
    falling = None if recipe.falling is None else (recipe.falling[0], recipe.falling[1] * epoch)
    known = {field.name: getattr(given, field.name) for field in dataclasses.fields(Options) if field.name != "falling"}
    return Options(**(known | {"steps": steps, "falling": falling}))
