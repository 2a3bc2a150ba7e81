"""Mixup: the weights' distribution, the mixed images and the mixed loss, against their formulas."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effedge.pipeline.training import step as step_module
from effedge.pipeline.training.data.batches import ClassificationBatch
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS
from effedge.pipeline.training.initial_state import start_state
from effedge.pipeline.training.progressive.mixup import draw_weights, mix_images
from effedge.pipeline.training.step import LABEL_SMOOTHING, batch_loss, make_normalize
from tests.pipeline.small_training import B0, data_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_weights_are_the_larger_part_of_a_beta_distribution():
    weights = draw_weights(1.0, seed=0, step=0, batch=20_000).numpy()  # Beta(1, 1) is uniform: 0.5 to 1 is left
    assert weights.min() >= 0.5 and weights.max() <= 1
    assert np.quantile(weights, [0.25, 0.5, 0.75]) == pytest.approx([0.625, 0.75, 0.875], abs=0.01)
    assert draw_weights(0.2, 0, 0, 1000).mean() > draw_weights(2.0, 0, 0, 1000).mean()  # small alphas hardly mix


def test_weights_follow_from_the_seed_and_the_step():
    first = draw_weights(0.2, 3, 5, 8)
    assert torch.equal(first, draw_weights(0.2, 3, 5, 8))
    assert not torch.equal(first, draw_weights(0.2, 3, 6, 8)) and not torch.equal(first, draw_weights(0.2, 4, 5, 8))


def test_an_image_is_mixed_with_the_one_as_far_from_the_other_end():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    mixed = mix_images(images, torch.tensor([0.75, 0.5, 0.9]))
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([0.5, 1.0, 1.8])


def test_the_loss_is_that_of_mixed_labels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    images, ids, weights = torch.randn(4, 3, 6, 6), torch.tensor([0, 3, 1, 4]), torch.tensor([0.9, 0.6, 0.7, 1.0])
    batch = ClassificationBatch(torch.zeros(4, 6, 6, 3, dtype=torch.uint8), ids)
    with torch.inference_mode():
        loss = batch_loss(model, images, batch, 5, weights=weights)["class"]
        one_hot = F.one_hot(ids, 5).float()
        targets = weights[:, None] * one_hot + (1 - weights[:, None]) * one_hot.flip(0)
        expected = F.cross_entropy(model(mix_images(images, weights)), targets, label_smoothing=LABEL_SMOOTHING)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_in_parts_has_the_weights_of_the_whole(folders, monkeypatch):
    """Two parts of two samples: each is mixed by its own two of the four weights."""
    taken, original = [], step_module.batch_loss

    def noted(*arguments):
        taken.append(arguments[5])
        return original(*arguments)

    monkeypatch.setattr(step_module, "batch_loss", noted)
    options = dataclasses.replace(B0, steps=1, batch=4, mixup=0.4)
    data = data_of(options, folders)
    for accumulate in (1, 2):
        state = start_state(dataclasses.replace(options, accumulate=accumulate), 3, folders / "none", {})
        samples = [data.draw(index) for index in range(4)]
        parts = [data.collate(samples[first : first + 4 // accumulate]) for first in range(0, 4, 4 // accumulate)]
        step_module.train_step(state, state.model, parts, make_normalize("b0"), options, 3, SINGLE_PROCESS)
    assert [len(weights) for weights in taken] == [4, 2, 2]
    assert torch.equal(taken[0], torch.cat(taken[1:])) and torch.equal(taken[0], draw_weights(0.4, 0, 0, 4))
