"""Progressive learning: the paper's schedule comes out of the rows, samples follow it, and a run resumes within it."""

import dataclasses
import logging

import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training import loop
from effedge.pipeline.training.data.sources import training_data
from effedge.pipeline.training.loop import train
from effedge.pipeline.training.options import apply_recipe, make_parser, read_options
from effedge.pipeline.training.progressive.stages import in_stages, stage_at, stages_of
from tests.pipeline.small_training import B0, assert_equal, data_of, error_of

pytestmark = pytest.mark.usefixtures("one_thread")

GROWING = dataclasses.replace(B0, size=Size(64, 64), steps=8, progressive=(32, 64), randaugment=(2, 15.0), mixup=0.2)


def options_of(*words, epoch_length=None):
    given = make_parser("").parse_args([*map(str, words), "--out", "x.safetensors"])
    apply_recipe(given)
    return read_options(given, epoch_length)


def figures(options):
    return [
        (stage.size, round(stage.randaugment[1], 1), round(stage.mixup, 3), round(stage.dropout, 3))
        for stage in stages_of(options)
    ]


# The first and the last stage are table 6's columns min and max; the others are algorithm 1's, worked out by hand.
@pytest.mark.parametrize(
    ("model", "stages"),
    [
        ("v2-s", [(128, 5, 0, 0.1), (185, 8.3, 0, 0.167), (242, 11.7, 0, 0.233), (300, 15, 0, 0.3)]),
        ("v2-m", [(128, 5, 0, 0.1), (212, 10, 0.067, 0.2), (296, 15, 0.133, 0.3), (380, 20, 0.2, 0.4)]),
        ("v2-l", [(128, 5, 0, 0.1), (212, 11.7, 0.167, 0.233), (296, 18.3, 0.333, 0.367), (380, 25, 0.5, 0.5)]),
    ],
)
def test_efficientnetv2s_recipe_is_table_6(model, stages):
    options = options_of(model, "--recipe", "efficientnetv2", "--data", "imagenet", epoch_length=1281167)
    assert figures(options) == stages
    assert (options.batch, options.rate, options.decay, options.ema) == (4096, 0.256, 1e-5, 0.9999)
    boundaries = [-(-options.steps * quarter // 4) for quarter in (1, 2, 3)]
    assert [stage_at(options, step).size for step in boundaries] == [stage[0] for stage in stages[1:]]
    assert [stage_at(options, step - 1).size for step in boundaries] == [stage[0] for stage in stages[:-1]]


def test_another_size_scales_the_images_and_options_replace_the_recipes():
    words = ("v2-s", "--recipe", "efficientnetv2", "--data", "x")
    assert options_of(*words, "--size", 192, epoch_length=100).progressive == (64, 150)
    options = options_of(*words, "--progressive", 96, 128, "--dropout", 0.05, "--mixup", 0.3, "--randaugment", 1, 3,
                         epoch_length=100)  # fmt: skip
    # what ends below table 6's least does not grow
    assert figures(options)[0] == (96, 3, 0, 0.05) and figures(options)[-1] == (128, 3, 0.3, 0.05)
    without = options_of(*words, "--autoaugment", epoch_length=100)
    assert without.autoaugment and without.randaugment is None and stages_of(without)[-1].randaugment is None


def test_a_model_without_a_row_begins_with_images_of_half_the_size():
    sizes = {model: options_of(model, "--recipe", "efficientnetv2", "--data", "x", epoch_length=9).progressive
             for model in ("v2-b0", "v2-b3", "b0")}  # fmt: skip
    assert sizes == {"v2-b0": (96, 192), "v2-b3": (120, 240), "b0": (112, 224)}


def test_without_it_there_is_one_stage_of_the_models_own_dropout():
    assert stages_of(options_of("b4")) == [(380, None, 0.0, 0.4)]
    assert options_of("b4").mixup is None and options_of("d0").progressive is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("b0", "--progressive", 64, 32), "--progressive 64 32: expected 32 <= LEAST <= GREATEST"),
        (("b0", "--progressive", 16, 64), "--progressive 16 64: expected 32 <= LEAST"),
        (("d0", "--progressive", 64, 128), "--progressive is for classifiers, d0 is a detector"),
        (("d0", "--mixup", 0.2), "--mixup is for classifiers, d0 is a detector"),
        (("b0", "--mixup", -1), "--mixup -1.0: expected 0 or more"),
        (("b0", "--dropout", 1), "--dropout 1.0: expected 0 to 1"),
    ],
)
def test_what_makes_no_run_is_one_line(monkeypatch, tmp_path, words, said):
    assert said in error_of(monkeypatch, *words, "--out", tmp_path / "x.safetensors")


def test_samples_have_the_size_of_their_steps_stage(folders):
    for data in (data_of(GROWING, folders), training_data("b0", "digits", None, Size(64, 64), GROWING.sampling)):
        growing = in_stages(data, GROWING)
        shapes = [growing.draw(index)[0].shape for index in range(GROWING.steps * GROWING.batch)]
        sides = [32] * 4 + [42] * 4 + [53] * 4 + [64] * 4  # two steps of two samples each
        assert shapes == [(side, side, 3) for side in sides]
    assert in_stages(data, B0) is data


def test_a_resumed_run_comes_to_the_weights_of_one_that_was_not_stopped(tmp_path, folders, monkeypatch, caplog):
    data = in_stages(data_of(GROWING, folders), GROWING)
    with caplog.at_level(logging.INFO, "effedge"):
        expected, _ = train(GROWING, data, tmp_path / "whole.safetensors", workers=0)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("stage")]
    assert said[0] == "stage 1 of 4: images of 32, RandAugment of magnitude 5, dropout 0.1"
    assert said[3] == "stage 4 of 4: images of 64, RandAugment of magnitude 15, mixup 0.2, dropout 0.2"
    assert len(said) == 4
    original = loop.train_step

    def interrupted(state, *arguments):
        if state.step == 5:
            raise KeyboardInterrupt
        return original(state, *arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(UserError, match="interrupted after step 5"):
        train(GROWING, data, tmp_path / "cut.safetensors", workers=0)
    monkeypatch.setattr(loop, "train_step", original)
    actual, _ = train(GROWING, data, tmp_path / "cut.safetensors", workers=0)
    assert_equal(actual, expected)


def test_the_steps_dropout_is_the_stages(tmp_path, folders, monkeypatch):
    seen, original = [], loop.train_step

    def noted(state, *arguments):
        losses = original(state, *arguments)
        seen.append(round(state.model.dropout, 3))
        return losses

    monkeypatch.setattr(loop, "train_step", noted)
    train(GROWING, in_stages(data_of(GROWING, folders), GROWING), tmp_path / "x.safetensors", workers=0)
    assert seen == [0.1, 0.1, 0.133, 0.133, 0.167, 0.167, 0.2, 0.2]
