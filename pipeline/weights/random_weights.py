"""Makes untrained weights for work on latency, with BatchNorm statistics of photographs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from effedge.pipeline.datasets.digits import background
from effedge.pipeline.models.anchors import ANCHORS_PER_CELL
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import is_detector

RANDOM_SEED = 0
# Enough pixels for the BatchNorm statistics of random weights, few enough for L2 in seconds. The coarsest level of a
# detector has one cell at 256, so there are several images.
RANDOM_SIZE, RANDOM_IMAGES = {True: 256, False: 128}, 4


def random_state(name: str, classes: int, anchors: int = ANCHORS_PER_CELL) -> dict[str, Tensor]:
    """Makes untrained weights, the same on every run: the model's initialization, BatchNorm statistics of photographs.

    With the statistics of an untrained BatchNorm (mean 0, variance 1) activations would vanish or explode over the
    hundreds of layers, and neither latency (denormal numbers) nor calibration would be like a real model's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = create_model(name, classes, anchors=anchors).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
                module.momentum = None  # plain averages: the statistics of the single batch
        with torch.inference_mode():
            model(_photographs(RANDOM_SIZE[is_detector(name)]))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The tiny deviation of a channel that hardly varies on these few images would blow others up.
                assert module.running_var is not None
                module.running_var.clamp_(min=module.running_var.mean().item())
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _photographs(size: int) -> Tensor:
    """Crops real photographs and roughly normalizes them, [RANDOM_IMAGES,3,size,size].

    Noise would not do: it has no large shapes, and the activations of a network that saw only noise explode on a
    photograph.
    """
    random = np.random.default_rng(RANDOM_SEED)
    crops = np.stack([background(random, "train", size, size) for _ in range(RANDOM_IMAGES)])
    return torch.from_numpy(crops).permute(0, 3, 1, 2) / 64.0 - 2.0
