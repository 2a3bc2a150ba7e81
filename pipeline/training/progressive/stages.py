"""Trains in stages of growing images and growing regularization: progressive learning.

Tan and Le 2021 (EfficientNetV2, arXiv 2104.00298), section 4 and algorithm 1: a run of N steps is divided into M = 4
stages. Stage i has images of side S_0 + (S_e - S_0) i / (M - 1), and the magnitude of RandAugment, mixup's alpha and
the rate of dropout grow by the same rule: small images need little regularization, and with too much of it the accuracy
falls. Small images take less time, which is the gain. The weights pass from stage to stage as they are.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, NamedTuple

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.tables import EFFICIENTNETS, Size, is_detector
from effedge.pipeline.training.data.batches import digit_crops, record_crops
from effedge.pipeline.training.data.sources import TrainingData
from effedge.pipeline.weights.published import preprocessing

if TYPE_CHECKING:
    from effedge.pipeline.training.options import Options

M = 4  # stages
SMALLEST_SIDE = 32  # pixels: the coarsest features have a stride of 32


class Stage(NamedTuple):
    """The settings of a stage: side of the images, (operations, magnitude) of RandAugment, mixup's alpha, dropout."""

    size: int
    randaugment: tuple[int, float] | None
    mixup: float
    dropout: float


class Settings(NamedTuple):
    """A row of the paper's table 6: (least, greatest) side of the images, and the greatest of the regularization."""

    sizes: tuple[int, int]
    magnitude: float
    mixup: float
    dropout: float


TABLE_6 = {
    "v2-s": Settings((128, 300), 15, 0.0, 0.3),
    "v2-m": Settings((128, 380), 20, 0.2, 0.4),
    "v2-l": Settings((128, 380), 25, 0.5, 0.5),
}
# The least of the regularization, which the table's models have in common; mixup's is 0.
LEAST_MAGNITUDE, LEAST_DROPOUT = 5.0, 0.1


def settings_of(model: str) -> Settings:
    """Returns the settings of a model: table 6's row, V2-L's for V2-XL.

    For other models, which the paper does not train so, the sides are half the training's to the training's, as in the
    authors' code (google/automl, efficientnetv2, main.py: `ibase`), the dropout the model's own, the rest V2-S's.
    """
    if model == "v2-xl":
        return TABLE_6["v2-l"]
    if model in TABLE_6:
        return TABLE_6[model]
    row = EFFICIENTNETS[model]
    largest = row.train_size or row.size
    return TABLE_6["v2-s"]._replace(sizes=(largest // 2, largest), dropout=row.dropout)


def apply_settings(arguments: argparse.Namespace, progressive: bool) -> None:
    """Completes the options of progressive learning from the recipe, and checks them.

    Args:
        arguments: complete but for `progressive`, `mixup`, `dropout` and `randaugment`.
        progressive: the recipe trains in stages.

    Raises:
        UserError: an option for a detector, or a number that makes no run.
    """
    model = arguments.model
    if is_detector(model):
        for name in ("progressive", "mixup", "dropout"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name} is for classifiers, {model} is a detector: leave it out")
    elif progressive:
        settings, ratio = settings_of(model), arguments.size.height / EFFICIENTNETS[model].size
        if arguments.progressive is None:
            arguments.progressive = [max(SMALLEST_SIDE, round(side * ratio)) for side in settings.sizes]
        if arguments.randaugment is None and not arguments.autoaugment:
            arguments.randaugment = (2, settings.magnitude)
        arguments.mixup = settings.mixup if arguments.mixup is None else arguments.mixup
        arguments.dropout = settings.dropout if arguments.dropout is None else arguments.dropout
    if arguments.progressive is not None:
        if arguments.size.height != arguments.size.width:
            raise UserError(f"--progressive grows square images, and the input is {arguments.size}: give --size a side")
        least, greatest = arguments.progressive = tuple(arguments.progressive)
        if not SMALLEST_SIDE <= least <= greatest:
            raise UserError(
                f"--progressive {least} {greatest}: expected {SMALLEST_SIDE} <= LEAST <= GREATEST, in pixels"
            )
    if arguments.mixup is not None and not 0 <= arguments.mixup < math.inf:
        raise UserError(f"--mixup {arguments.mixup}: expected 0 or more, such as 0.2")
    if arguments.dropout is not None and not 0 <= arguments.dropout < 1:
        raise UserError(f"--dropout {arguments.dropout}: expected 0 to 1, the share of the features that is dropped")


def stages_of(options: Options) -> list[Stage]:
    """Lists the stages of a classifier's run; a single one where it does not train progressively."""
    dropout = EFFICIENTNETS[options.model].dropout if options.dropout is None else options.dropout
    last = Stage(options.size.height, options.randaugment, options.mixup or 0.0, dropout)
    if options.progressive is None:
        return [last]
    stages = []
    for index in range(M):
        share = index / (M - 1)
        augmentation = options.randaugment
        if augmentation is not None:
            augmentation = (augmentation[0], _grown(LEAST_MAGNITUDE, augmentation[1], share))
        least, greatest = options.progressive
        size = int(least + (greatest - least) * share)
        stages.append(Stage(size, augmentation, share * last.mixup, _grown(LEAST_DROPOUT, dropout, share)))
    return stages


def _grown(least: float, greatest: float, share: float) -> float:
    """Interpolates from `least` to `greatest`; a smaller `greatest` stays as it is."""
    return min(least, greatest) + (greatest - min(least, greatest)) * share


def stage_index(options: Options, step: int) -> int:
    """Returns the stage of a step, from 0."""
    return 0 if options.progressive is None else step * M // options.steps


def stage_at(options: Options, step: int) -> Stage:
    """Returns the settings of a step of a classifier's run."""
    return stages_of(options)[stage_index(options, step)]


def describe_stage(options: Options, step: int) -> str | None:
    """Describes the stage that begins with `step`, for the log; None if none begins there."""
    if options.progressive is None or (step and stage_index(options, step) == stage_index(options, step - 1)):
        return None
    size, augmentation, mixup, dropout = stage_at(options, step)
    magnitude = "" if augmentation is None else f", RandAugment of magnitude {augmentation[1]:.3g}"
    mixed = f", mixup {mixup:.2g}" if mixup else ""
    return f"stage {stage_index(options, step) + 1} of {M}: images of {size}{magnitude}{mixed}, dropout {dropout:.2g}"


def in_stages(data: TrainingData, options: Options) -> TrainingData:
    """Makes a sample have the size and the augmentation of its step's stage; returns `data` itself if there are none.

    Drawn digits only change their size, because they vary in their own ways.
    """
    if options.progressive is None:
        return data
    draws = []
    for stage in stages_of(options):
        if data.checked is None:
            draws.append(digit_crops(stage.size, options.seed))
        else:
            augmentation = options.augmentation._replace(randaugment=stage.randaugment)
            look, records = preprocessing(options.model, ""), data.checked.data.records
            draws.append(record_crops(records, Size(stage.size, stage.size), options.seed, augmentation, look))
    return data._replace(draw=lambda index: draws[stage_index(options, index // options.batch)](index))
