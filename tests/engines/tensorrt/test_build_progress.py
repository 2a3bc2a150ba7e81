"""Tests the share of nested phases that is done, against values worked out by hand."""

import pytest

from effedge.engines.tensorrt.build_progress import NestedPhases


def test_a_child_fills_one_step_of_its_parent():
    phases = NestedPhases()
    phases.start("build", None, 4)
    assert phases.step("build", 0) == 0.25
    phases.start("optimize", "build", 2)
    assert phases.step("optimize", 0) == pytest.approx(0.25 + 0.25 / 2)
    phases.start("time", "optimize", 5)
    assert phases.step("time", 1) == pytest.approx(0.25 + 0.25 * (1 + 2 / 5) / 2)


def test_it_never_goes_back():
    phases = NestedPhases()
    phases.start("build", None, 2)
    phases.start("optimize", "build", 2)
    assert phases.step("optimize", 1) == 0.5
    assert phases.finish("optimize") == 0.5  # before the parent counts the step
    assert phases.step("build", 0) == 0.5
    assert phases.finish("build") == 0.5  # an early end, as of a cancelled build, is not 100%
