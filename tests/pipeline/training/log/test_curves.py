"""The curves of a training: each loss is drawn once, on axes that say what they are."""

from __future__ import annotations

import doctest
import json

import pytest

from effedge.pipeline.training.log import curves

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (figures.append(self), path.write_bytes(b"x")))

    def draw(entries):
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, entries)))
        curves.draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png", "mine")
        return figures[-1].axes

    return draw


def steps(count, **losses):
    return [{"step": step, **losses, "rate": 0.1, "images_per_second": 1.0} for step in range(1, count + 1)]


def test_the_docstrings_examples():
    assert doctest.testmod(curves).failed == 0


def test_a_classifiers_only_loss_is_one_line(drawn):
    panels = drawn(steps(5, **{"class": 2.0, "loss": 2.0}))
    assert [line.get_label() for line in panels[0].lines] == ["loss"]
    assert len(drawn(steps(5, **{"class": 2.0, "box": 1.0, "loss": 3.0}))[0].lines) == 3
    assert len(drawn(steps(100, loss=2.0))[0].lines) == 2  # the mean, and faintly what it is of


def test_the_axes_say_what_they_are(drawn):
    panels = drawn([*steps(100, loss=2.0), {"step": 100, "validation": {"AP": 0.5, "AP50": 0.8}}])
    assert [panel.get_ylabel() for panel in panels] == [
        "loss, mean of 5 steps (logarithmic)", "learning rate", "validation, 0 to 1",
    ]  # fmt: skip
    assert panels[0].get_title() == "mine" and panels[-1].get_xlabel() == "step"


def test_a_training_without_steps_is_drawn_empty(drawn):
    assert len(drawn([])) == 2
