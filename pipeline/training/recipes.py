"""Lists the recipes: a row of a training's constants, and their sources. Every constant can be overridden.

`finetune` is for small data and one machine: weights that were trained on images already, AdamW (Loshchilov and Hutter
2019), which learns from small batches, linear warm-up and a cosine to zero.

`efficientnet`: Tan and Le 2019, section 5.2: RMSProp with decay 0.9 and momentum 0.9, weight decay 1e-5, learning rate
0.256 decayed by 0.97 every 2.4 epochs, stochastic depth down to 0.8, and dropout by model
(`effedge.pipeline.models.tables`). From its code release (tensorflow/tpu, models/official/efficientnet, main.py and
utils.py): the rate is 0.016 for each 256 of the batch, so 0.256 goes with 4096; 350 epochs, 5 of them warm-up;
RMSProp's epsilon 1e-3, which is inside the square root there and outside of it in PyTorch, so its root is used here;
moving average 0.9999; label smoothing 0.1. RandAugment (Cubuk et al. 2020) replaces AutoAugment, as in the later of
the published weights.

`efficientnetv2`: Tan and Le 2021, section 5.1: as `efficientnet`, and progressive learning with RandAugment, mixup and
dropout by the paper's table 6 (`effedge.pipeline.training.progressive.stages`). No cutmix, which the code release has
and the paper has not.

`efficientdet`: Tan, Pang and Le 2020, section 5.1: SGD with momentum 0.9, weight decay 4e-5, learning rate from 0 to
0.16 over the first epoch and then a cosine, moving average 0.9998, focal loss with alpha 0.25 and gamma 1.5
(`effedge.pipeline.training.losses`), scale jitter 0.1 to 2, 300 epochs of batch 128. From its code release
(google/automl, efficientdet, hparams_config.py): the rate is 0.08 for each 64 of the batch, gradients are clipped at
norm 10, and there is no stochastic depth.

`fixres`: Touvron et al. 2019 (`effedge.pipeline.training.fixres`), which goes on from trained weights. From its code
release (facebookresearch/FixRes, imnet_finetune/train.py and README.md): SGD with momentum 0.9, weight decay 1e-4, rate
0.008 for each 512 of the batch, 56 epochs for a ResNet-50, no moving average. Images are cut as in evaluation and
mirrored at random, as in its transforms_v2.py. A cosine takes the place of a tenth of the rate after 30 epochs, so that
shorter runs end at a small rate too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from effedge.pipeline.models.efficientnet import DROP_CONNECT


class Recipe(NamedTuple):
    """The constants of a training."""

    name: str
    task: str | None  # None: both tasks
    optimizer: str  # "adamw", "rmsprop" or "sgd"
    batch: int
    rate: float  # the highest, for a batch of `batch`
    rate_by_batch: bool  # True: the rate is proportional to the batch
    decay: float  # weight decay of kernels and matrices, not of biases and BatchNorm
    drop_connect: float  # stochastic depth of the last block
    ema: float
    clip: float  # norm of the gradient
    steps: int | None = None  # either steps or epochs
    epochs: float | None = None
    warmup: int | None = None  # steps; either warmup or warmup_epochs
    warmup_epochs: float | None = None
    falling: tuple[float, float] | None = None  # (factor, epochs between); None: a cosine to zero
    randaugment: tuple[int, float] | None = None  # number of operations on an image, and their magnitude
    progressive: bool = False  # sizes and regularization grow by stage (effedge.pipeline.training.progressive)
    matching: str = "iou"  # of a detector's anchors (effedge.pipeline.training.matching)
    box_loss: str = "huber"  # of a detector (effedge.pipeline.training.losses)
    fixes_resolution: bool = False  # only the last layers learn, from images cut as in evaluation


RECIPES = {
    row.name: row
    for row in (
        Recipe("finetune", None, "adamw", 8, 1e-3, False, 1e-2, DROP_CONNECT, 0.998, 10.0, steps=2000, warmup=100),
        Recipe("efficientnet", "classification", "rmsprop", 4096, 0.256, True, 1e-5, DROP_CONNECT, 0.9999, math.inf,
               epochs=350, warmup_epochs=5, falling=(0.97, 2.4), randaugment=(2, 9)),
        Recipe("efficientnetv2", "classification", "rmsprop", 4096, 0.256, True, 1e-5, DROP_CONNECT, 0.9999, math.inf,
               epochs=350, warmup_epochs=5, falling=(0.97, 2.4), progressive=True),
        Recipe("efficientdet", "detection", "sgd", 128, 0.16, True, 4e-5, 0.0, 0.9998, 10.0, epochs=300,
               warmup_epochs=1),
        Recipe("fixres", "classification", "sgd", 512, 0.008, True, 1e-4, 0.0, 0.0, math.inf, epochs=56, warmup=0,
               fixes_resolution=True),
    )
}  # fmt: skip

# The other constants of the optimizers.
ADAMW_BETAS = (0.9, 0.99)
SGD_MOMENTUM = 0.9
RMSPROP_DECAY, RMSPROP_MOMENTUM, RMSPROP_EPSILON = 0.9, 0.9, math.sqrt(1e-3)
