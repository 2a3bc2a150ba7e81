"""Makes the state that a training starts from: new or initialized weights, or those of its resume file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from effedge.deploy.common.messages import log
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.efficientnet import DROP_CONNECT, EfficientNet
from effedge.pipeline.models.mbconv import Block
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS, ProcessGroup
from effedge.pipeline.training.distributed.sync_batch_norm import synchronize
from effedge.pipeline.training.ema import Ema
from effedge.pipeline.training.fixres import freeze_all_but_last
from effedge.pipeline.training.initial_weights import initialize
from effedge.pipeline.training.log.state import TrainingState, load_resume
from effedge.pipeline.training.optimizer import make_optimizer
from effedge.pipeline.training.options import Options
from effedge.pipeline.training.recipes import RECIPES


def freeze_norm(model: nn.Module) -> None:
    """Makes BatchNorm use its running statistics in training too, and keep them; its scales and biases still learn.

    In a batch of few images, an image unlike the others is divided by its own large variance. That hides from the loss
    what the running statistics will make of it: a D0 trained so found hundreds of digits in an image of fur.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def start_state(
    options: Options, classes: int, resume: Path, run_key: Mapping[str, object], group: ProcessGroup = SINGLE_PROCESS
) -> TrainingState:
    """Makes the state before the first step, or loads the state of the file `resume` if it is there.

    Args:
        run_key: describes the run, which the file must be of.
    """
    torch.manual_seed(options.seed)
    model: nn.Module = create_model(options.model, classes, options.size)
    for module in model.modules():
        if isinstance(module, Block):
            module.drop_rate *= options.drop_connect / DROP_CONNECT
    message = ""
    if options.init and not resume.exists():
        with group.rank_0_first():  # rank 0 downloads
            message = initialize(model, options.model, options.init, RECIPES[options.recipe].fixes_resolution)
    model.train()
    if options.freeze_norm:
        freeze_norm(model)
    if group.world_size > 1:
        model = synchronize(model, group.device)
    if RECIPES[options.recipe].fixes_resolution:
        assert isinstance(model, EfficientNet)
        freeze_all_but_last(model)  # last: synchronized BatchNorms have parameters of their own
    model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, options.decay, RECIPES[options.recipe].optimizer)
    state = TrainingState(model, Ema(model, options.ema), optimizer)
    if resume.exists():
        load_resume(resume, run_key, state)
        message = f"going on from step {state.step} of {options.steps}"
    if message:
        log.info(message)
    return state
