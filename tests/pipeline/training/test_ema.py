"""The moving average by its formula."""

import pytest
import torch
from torch import nn

from effedge.pipeline.training.ema import Ema


def one_weight(value):
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(value)
    return model


def test_the_average_is_its_formula():
    model = one_weight(0.0)
    ema, expected = Ema(model, decay=0.9), 0.0
    for step in range(200):
        model.weight.data.fill_(float(step % 7))
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    assert ema.state["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_the_random_start_is_soon_forgotten():
    model = one_weight(1000.0)
    ema = Ema(model, decay=0.9998)
    model.weight.data.fill_(1.0)
    for step in range(100):
        ema.update(model, step)
    # A plain average of this decay would still have 980 of the start.
    assert ema.state["weight"].item() == pytest.approx(1.0, abs=0.01)


def test_it_starts_from_the_model_and_is_no_part_of_it():
    model = one_weight(3.0)
    ema = Ema(model, decay=0.5)
    model.weight.data.fill_(7.0)
    assert ema.state["weight"].item() == 3.0
    ema.update(model, 10**6)
    assert ema.state["weight"].item() == 5.0 and model.weight.item() == 7.0
    assert not ema.state["weight"].requires_grad


def test_batch_norms_statistics_are_averaged_and_its_counter_copied():
    model = nn.BatchNorm2d(2)
    ema = Ema(model, decay=0.5)
    model.train()(torch.full((2, 2, 2, 2), 10.0))
    ema.update(model, 10**6)
    torch.testing.assert_close(ema.state["running_mean"], model.running_mean / 2)
    assert ema.state["num_batches_tracked"].item() == 1
    nn.BatchNorm2d(2).load_state_dict(ema.state)
