"""Reads the options of a training from the command line, completes them from the recipe, and checks them."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.paths import output_file
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import SIZE_HELP, Size, input_size, is_detector, parse_size
from effedge.pipeline.training.data.augment import JITTER, Augmentation
from effedge.pipeline.training.data.sources import DIGITS, Sampling
from effedge.pipeline.training.losses import BOX_LOSSES
from effedge.pipeline.training.matching import MATCHINGS
from effedge.pipeline.training.progressive.stages import apply_settings
from effedge.pipeline.training.recipes import RECIPES

PRECISIONS = ("fp32", "bf16")
KINDS = {"detection": "detector", "classification": "classifier"}
# Beside those of effedge.pipeline.training.progressive.stages.
OF_ONE_TASK = {"autoaugment": "classification", "matching": "detection", "box_loss": "detection"}


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that decide a run: two runs with equal options and data come to the same weights."""

    model: str
    data: str
    size: Size
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
    turns: bool = False  # rotate images by quarter turns
    colour: float = 0.0
    jitter: tuple[float, float] = JITTER
    randaugment: tuple[int, float] | None = None
    autoaugment: bool | None = None
    recipe: str = "finetune"
    ema: float = RECIPES["finetune"].ema
    falling: tuple[float, float] | None = None  # see effedge.pipeline.training.optimizer.learning_rate
    accumulate: int = 1
    precision: str = "fp32"
    progressive: tuple[int, int] | None = None  # see effedge.pipeline.training.progressive.stages
    mixup: float | None = None
    dropout: float | None = None  # None: the model's own
    matching: str = "iou"
    box_loss: str = "huber"

    @property
    def sampling(self) -> Sampling:
        return make_sampling(self)

    @property
    def augmentation(self) -> Augmentation:
        return make_augmentation(self)

    def as_json(self) -> dict[str, object]:
        """Returns the options as JSON values."""
        return dataclasses.asdict(self) | {"size": str(self.size)}


def make_augmentation(arguments: argparse.Namespace | Options) -> Augmentation:
    return Augmentation(arguments.flips, arguments.turns, arguments.colour, arguments.jitter, arguments.randaugment,
                        bool(arguments.autoaugment), RECIPES[arguments.recipe].fixes_resolution)  # fmt: skip


def make_sampling(arguments: argparse.Namespace | Options) -> Sampling:
    return Sampling(arguments.seed, make_augmentation(arguments), arguments.matching)


def make_parser(description: str) -> Parser:
    parser = Parser(description=description)
    add = parser.add_argument
    add("model")
    add("--data", default=DIGITS, help="training data (see above); default: digits")
    add("--images", metavar="DIR", type=Path, help="folder of DATA's images, if not beside it")
    skip = "train without the images of DATA that cannot be read (default: refuse, as the rest may be another data set)"
    add("--skip-unreadable", action="store_true", help=skip)
    add("--val", metavar="DATA", help="validation data; default: none, or unseen digits for digits")
    add("--val-images", metavar="DIR", type=Path, help="folder of its images; default: --images")
    every = "steps; default: every epoch where the run counts in epochs, otherwise only at the end"
    add("--validate-every", metavar="N", type=int, help=every)
    add("--patience", metavar="N", type=int, help="stop after N validations without gain (default: never)")
    add("--size", type=parse_size, help=f"{SIZE_HELP} (default: the model's)")
    names = ", ".join(RECIPES)
    add("--recipe", default="finetune", help=f"{names}: defaults of the following options (default: finetune)")
    add("--steps", type=int)
    add("--epochs", type=float, help="in place of --steps")
    add("--batch", type=int, help="images in a step, over all processes")
    add("--accumulate", metavar="N", type=int, default=1, help="go through each batch in N parts, for less memory")
    add("--rate", type=float, help="highest learning rate")
    add("--warmup", type=int, help="steps of linear warm-up")
    add("--decay", type=float, help="weight decay")
    add("--drop-connect", type=float, help="stochastic depth at the last block")
    add("--ema", type=float, metavar="DECAY", help="of the moving average of the weights, such as 0.998")
    flips = "never mirror images: where left and right differ, as in text"
    add("--no-flips", dest="flips", action="store_false", help=flips)
    rotation = "rotate images by quarter turns too: where there is no up, as under a microscope"
    add("--turns", action="store_true", help=rotation)
    colour = "vary brightness, contrast and saturation by up to this share, such as 0.3 (default: 0)"
    add("--colour", type=float, default=0.0, metavar="SHARE", help=colour)
    jitter = "scales of a detector's images, 1 being the letterbox's; narrow for objects of one size (default: 0.1 2)"
    add("--jitter", nargs=2, type=float, default=list(JITTER), metavar=("LEAST", "GREATEST"), help=jitter)
    matching = "which anchors learn an object: those of IoU 0.5, or for small ones the nearest too"
    add("--matching", choices=MATCHINGS, help=matching)
    add("--box-loss", choices=tuple(BOX_LOSSES), help="of a detector's boxes")
    randaugment = "RandAugment on a classifier's images: N operations of magnitude M, 10 being their ranges' end"
    add("--randaugment", nargs=2, type=float, metavar=("N", "M"), help=randaugment)
    autoaugment = "AutoAugment's policy for ImageNet on a classifier's images, in place of RandAugment"
    add("--autoaugment", action="store_const", const=True, help=autoaugment)
    stages = "grow a classifier's images from LEAST to GREATEST pixels in 4 stages, and its regularization with them"
    add("--progressive", nargs=2, type=int, metavar=("LEAST", "GREATEST"), help=stages)
    add("--mixup", type=float, metavar="ALPHA", help="mix a classifier's images and labels in pairs, such as 0.2")
    add("--dropout", type=float, metavar="RATE", help="of a classifier's features (default: the model's own)")
    freeze = (
        "normalize by the statistics of --init, as the engine will, not by each batch's own: for a detector's last "
        "steps, where a batch is too small to stand for the images to come"
    )
    add("--freeze-norm", action="store_true", help=freeze)
    add("--precision", default="fp32", help="fp32, or bf16 in the forward pass: faster where the processor has it")
    add("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    add("--workers", type=int, metavar="N", help="processes that read images (default: 1; on a GPU the cores, to 16)")
    add("--seed", type=int, default=0)
    init = (
        "where to start: a path, random, or published weights of this model, of its backbone (imagenet, for a "
        "detector), or of another (lite0:imagenet); default: random"
    )
    add("--init", help=init)
    add("--out", type=output_file, required=True, help="the weights to write, .safetensors")
    add("-q", "--quiet", action="store_true", help="neither progress nor messages")
    return parser


def apply_recipe(arguments: argparse.Namespace) -> None:
    """Completes the arguments from the recipe, and checks them all.

    Raises UserError for an unknown model or recipe, a recipe of the other task, a number that makes no run.
    """
    arguments.size = input_size(check_model(arguments.model), arguments.size)
    recipe = RECIPES[choose("recipe", arguments.recipe, RECIPES)]
    task = "detection" if is_detector(arguments.model) else "classification"
    if recipe.task not in (None, task):
        raise UserError(f"--recipe {recipe.name} is for {recipe.task}, {arguments.model} is for {task}")
    if arguments.steps is not None and arguments.epochs is not None:
        raise UserError("--steps and --epochs say the same thing: give one of them")
    if arguments.steps is None and arguments.epochs is None:
        arguments.steps, arguments.epochs = recipe.steps, recipe.epochs
    arguments.batch = recipe.batch if arguments.batch is None else arguments.batch
    if arguments.rate is None:
        arguments.rate = recipe.rate * (arguments.batch / recipe.batch if recipe.rate_by_batch else 1)
    for name, only in OF_ONE_TASK.items():
        if getattr(arguments, name) is not None and task != only:
            option, of, kind = name.replace("_", "-"), KINDS[only], KINDS[task]
            raise UserError(f"--{option} is for {of}s, and {arguments.model} is a {kind}: leave it out")
    for name in ("decay", "drop_connect", "ema", "matching", "box_loss"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(recipe, name))
    if arguments.autoaugment and arguments.randaugment is not None:
        raise UserError("--autoaugment and --randaugment are two policies for the same images: give one of them")
    apply_settings(arguments, recipe.progressive)
    if arguments.randaugment is None and task == "classification" and not arguments.autoaugment:
        arguments.randaugment = recipe.randaugment
    if arguments.randaugment is not None:
        arguments.randaugment = (int(arguments.randaugment[0]), float(arguments.randaugment[1]))
    arguments.jitter = tuple(arguments.jitter)
    check(arguments)


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError for a number that makes no run."""
    least = {"steps": 1, "batch": 2, "warmup": 0, "decay": 0, "drop_connect": 0, "seed": 0, "accumulate": 1,
             "patience": 1, "validate_every": 1, "workers": 0}  # fmt: skip
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            reason = " (BatchNorm needs several images)" if name == "batch" else ""
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {smallest} or more{reason}")
    if arguments.turns and not is_detector(arguments.model) and arguments.size.height != arguments.size.width:
        raise UserError(
            f"--turns rotates a classifier's crops by quarters, and the input is {arguments.size}: leave it out"
        )
    if arguments.epochs is not None and not 0 < arguments.epochs < math.inf:
        raise UserError(f"--epochs {arguments.epochs}: expected a number above 0")
    if not 0 < arguments.rate < math.inf:
        raise UserError(f"--rate {arguments.rate}: expected a number above 0, such as 1e-3")
    if arguments.freeze_norm and arguments.init in (None, "random"):
        raise UserError("--freeze-norm keeps the statistics of a trained model: give it with --init")
    if RECIPES[arguments.recipe].fixes_resolution and arguments.init in (None, "random"):
        raise UserError(f"--recipe {arguments.recipe} fine-tunes a trained classifier: give it with --init")
    if arguments.drop_connect >= 1:
        raise UserError(f"--drop-connect {arguments.drop_connect}: expected less than 1, the share of samples dropped")
    if not 0 <= arguments.ema < 1:
        raise UserError(f"--ema {arguments.ema}: expected 0 to 1, such as 0.998")
    if not 0 <= arguments.colour < 1:
        raise UserError(f"--colour {arguments.colour}: expected 0 to 1, the share by which colours may change")
    if not 0 < arguments.jitter[0] <= arguments.jitter[1] < math.inf:
        raise UserError(f"--jitter {arguments.jitter[0]} {arguments.jitter[1]}: expected 0 < LEAST <= GREATEST")
    if arguments.randaugment is not None and (arguments.randaugment[0] < 0 or not 0 <= arguments.randaugment[1] <= 30):
        count, magnitude = arguments.randaugment
        raise UserError(f"--randaugment {count} {magnitude}: expected N of 0 or more and M of 0 to 30")
    choose("precision", arguments.precision, PRECISIONS)
    if (arguments.validate_every or arguments.patience) and arguments.val is None and arguments.data != DIGITS:
        option = "--validate-every" if arguments.validate_every else "--patience"
        raise UserError(f"{option} needs images to validate on: give them with --val")


def read_options(arguments: argparse.Namespace, epoch_length: int | None, world_size: int = 1) -> Options:
    """Makes the options of a run from the completed arguments, epochs converted to steps.

    Also decides `arguments.validate_every`.

    Args:
        epoch_length: number of images in an epoch; None for drawn images.
        world_size: number of processes.

    Raises:
        UserError: epochs of drawn images, which have none; a batch that cannot be split alike.
    """
    recipe, parts = RECIPES[arguments.recipe], arguments.accumulate * world_size
    if arguments.batch % parts:
        raise UserError(
            f"--batch {arguments.batch} cannot be split into {parts} equal parts ({world_size} processes, --accumulate "
            f"{arguments.accumulate}): expected a multiple of {parts}"
        )
    if arguments.batch // arguments.accumulate < 2 and not arguments.freeze_norm:
        raise UserError(f"--accumulate {arguments.accumulate} leaves an image at a time: BatchNorm needs several")
    by_epoch = arguments.epochs is not None or recipe.falling is not None or recipe.warmup_epochs is not None
    if epoch_length is None and by_epoch:
        raise UserError(
            f"data '{arguments.data}' is drawn anew and has no epochs: expected --steps, with --recipe finetune or "
            "fixres"
        )
    epoch = (epoch_length or 0) / arguments.batch  # in steps
    steps = arguments.steps if arguments.epochs is None else max(1, round(arguments.epochs * epoch))
    if arguments.epochs is not None and arguments.validate_every is None and arguments.val is not None:
        arguments.validate_every = max(1, round(epoch))
    if arguments.warmup is None:
        arguments.warmup = recipe.warmup if recipe.warmup_epochs is None else round(recipe.warmup_epochs * epoch)
    falling = None if recipe.falling is None else (recipe.falling[0], recipe.falling[1] * epoch)
    names = [field.name for field in dataclasses.fields(Options) if field.name != "falling"]
    return Options(**({name: getattr(arguments, name) for name in names} | {"steps": steps, "falling": falling}))
