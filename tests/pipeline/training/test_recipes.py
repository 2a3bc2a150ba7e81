"""Recipes: the papers' figures come out of the rows, and every one of them can be overridden."""

import numpy as np
import pytest
import torch

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.dropout import drop_out, part_of_batch
from effedge.pipeline.models.tables import EFFICIENTNETS
from effedge.pipeline.training.optimizer import learning_rate, make_optimizer
from effedge.pipeline.training.options import apply_recipe, make_parser, read_options
from effedge.pipeline.training.recipes import RECIPES


def options_of(*words, epoch_length=None):
    given = make_parser("").parse_args([*map(str, words), "--out", "x.safetensors"])
    apply_recipe(given)
    return read_options(given, epoch_length), given


def test_the_default_is_what_it_was():
    options, _ = options_of("d0")
    assert (options.steps, options.batch, options.rate, options.warmup) == (2000, 8, 1e-3, 100)
    assert (options.decay, options.drop_connect, options.ema, options.randaugment) == (1e-2, 0.2, 0.998, None)


def test_efficientdets_recipe_is_section_5_1():
    options, given = options_of("d0", "--recipe", "efficientdet", "--data", "coco", "--val", "v", epoch_length=118287)
    assert (options.batch, options.rate, options.decay, options.ema) == (128, 0.16, 4e-5, 0.9998)
    epoch = 118287 / 128
    assert options.steps == round(300 * epoch) and options.warmup == round(epoch) == given.validate_every
    assert learning_rate(options.warmup, options.steps, options.rate, options.warmup) == 0.16
    assert options.falling is None and options.jitter == (0.1, 2.0)


def test_efficientnets_recipe_is_section_5_2_and_its_code():
    options, _ = options_of("b0", "--recipe", "efficientnet", "--data", "imagenet", epoch_length=1281167)
    assert (options.batch, options.rate, options.decay, options.ema) == (4096, 0.256, 1e-5, 0.9999)
    assert options.randaugment == (2, 9) and options.drop_connect == 0.2
    epoch = 1281167 / 4096
    rates = [learning_rate(round(epochs * epoch), options.steps, options.rate, options.warmup, options.falling)
             for epochs in (2.5, 5.0, 24.1)]  # fmt: skip
    assert rates == pytest.approx([0.128, 0.256 * 0.97**2, 0.256 * 0.97**10], rel=2e-3)


def test_the_rate_grows_with_the_batch_where_the_recipe_says_so_and_not_where_it_is_given():
    data = ("--data", "x", "--recipe", "efficientdet")
    assert options_of("d0", *data, "--batch", 16, epoch_length=1000)[0].rate == pytest.approx(0.02)
    assert options_of("d0", *data, "--batch", 16, "--rate", 0.1, epoch_length=1000)[0].rate == 0.1
    assert options_of("d0", "--batch", 16)[0].rate == 1e-3


def test_epochs_are_steps_of_the_data():
    options, given = options_of("d0", "--data", "x", "--epochs", 2.5, "--batch", 4, "--val", "v", epoch_length=100)
    assert options.steps == 62 and given.validate_every == 25 and options.warmup == 100
    words = ("d0", "--data", "x", "--recipe", "efficientdet", "--steps", 70, "--warmup", 7, "--decay", 0, "--ema", 0.5)
    options, _ = options_of(*words, epoch_length=100)
    assert (options.steps, options.warmup, options.decay, options.ema) == (70, 7, 0, 0.5)
    with pytest.raises(UserError, match="has no epochs"):
        options_of("d0", "--epochs", 2)


def test_the_optimizers_are_the_recipes():
    model = create_model("lite0", 2)
    kinds = {name: make_optimizer(model, row.decay, row.optimizer) for name, row in RECIPES.items()}
    assert isinstance(kinds["finetune"], torch.optim.AdamW)
    sgd, rmsprop = kinds["efficientdet"].param_groups[0], kinds["efficientnet"].param_groups[0]
    assert (sgd["momentum"], sgd["weight_decay"]) == (0.9, 4e-5)
    assert (rmsprop["alpha"], rmsprop["momentum"], rmsprop["weight_decay"]) == (0.9, 0.9, 1e-5)


def test_dropout_is_the_models_own_and_a_samples_own():
    x = torch.ones(64, 500)
    for name, rate in (("b0", 0.2), ("b4", 0.4), ("b7", 0.5)):
        assert EFFICIENTNETS[name].dropout == rate
    y = drop_out(x, 0.4, True)
    assert float((y == 0).float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.03)
    assert drop_out(x, 0.4, False) is x
    with part_of_batch(3, 5, 0, 64):
        whole = drop_out(x, 0.4, True)
    for first in (0, 16):
        with part_of_batch(3, 5, first, 64):
            part = drop_out(x[:16], 0.4, True)
        np.testing.assert_array_equal(part.numpy(), whole[first : first + 16].numpy())
    with part_of_batch(3, 6, 0, 64):
        assert not torch.equal(drop_out(x, 0.4, True), whole)


def test_a_classifier_drops_out_by_its_row_in_training_only():
    torch.manual_seed(0)
    model = create_model("lite0", 2, 32).eval()
    for block in model.modules():
        if hasattr(block, "drop_rate"):
            block.drop_rate = 0.0
    x = torch.randn(2, 3, 32, 32)
    still = [model(x) for _ in range(2)]
    assert torch.equal(*still)
    model.training = True  # BatchNorm stays as it is
    drawn = [model(x) for _ in range(2)]
    assert not torch.equal(*drawn)


def test_autoaugment_takes_randaugments_place_and_neither_is_a_detectors():
    data = ("--data", "x", "--recipe", "efficientnet")
    options, _ = options_of("b0", *data, "--autoaugment", epoch_length=1000)
    assert options.randaugment is None and options.augmentation.autoaugment
    assert not options_of("b0", *data, epoch_length=1000)[0].augmentation.autoaugment
    with pytest.raises(UserError, match="two policies for the same images"):
        options_of("b0", *data, "--autoaugment", "--randaugment", 2, 9, epoch_length=1000)
    with pytest.raises(UserError, match="--autoaugment is for classifiers, and d0 is a detector"):
        options_of("d0", "--autoaugment")


def test_the_targets_of_a_detector_are_by_recipe_and_no_classifiers():
    paper, _ = options_of("d0", "--recipe", "efficientdet", "--data", "x", epoch_length=1000)
    assert (paper.matching, paper.box_loss) == ("iou", "huber")
    options, _ = options_of("d0", "--matching", "compensated", "--box-loss", "giou")
    assert options.sampling.matching == "compensated" and options.box_loss == "giou"
    for words in (("--matching", "iou"), ("--box-loss", "huber")):
        with pytest.raises(UserError, match=f"{words[0]} is for detectors, and b0 is a classifier"):
            options_of("b0", *words)
