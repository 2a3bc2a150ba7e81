"""Any engine, arrays in and arrays out; Detector and Classifier refer to it for engines without a spec."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effedge import Classifier, Detector, Runner
from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.runner import Tensor, has_nan

ROOT = Path(__file__).resolve().parents[3]
X, Y = np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([[10], [20]], np.int32)


def test_it_says_what_the_engine_takes_and_gives(adder):
    runner = Runner(adder)
    assert runner.inputs == [Tensor("x", "float32", (None, 3)), Tensor("y", "int32", (None, 1))]
    assert runner.outputs == [Tensor("sum", "float32", (None, 3)), Tensor("twice", "int32", None)]
    assert runner.batch == (1, 4)


def test_arrays_go_in_and_come_out_by_name(adder):
    outputs = Runner(adder)({"y": Y, "x": X})
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "sum": [[11, 12, 13], [24, 25, 26]],
        "twice": [[20], [40]],
    }
    assert [array.dtype.name for array in outputs.values()] == ["float32", "int32"]


def test_earlier_outputs_may_be_kept_and_the_batch_may_change(adder):
    runner = Runner(adder)
    first = runner({"x": X, "y": Y})
    assert runner({"x": X[:1], "y": -Y[:1]})["sum"].tolist() == [[-9, -8, -7]]
    assert first["sum"].tolist() == [[11, 12, 13], [24, 25, 26]]


def test_arrays_that_are_not_contiguous_are_read_right(adder):
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert Runner(adder)({"x": wide[:, ::2], "y": 0 * Y})["sum"].tolist() == [[0, 2, 4], [6, 8, 10]]


def test_it_runs_a_detectors_engine_too(build):
    outputs = Runner(build())({"image": np.full((1, 64, 64, 3), 255, np.uint8)})
    np.testing.assert_allclose(outputs["scores"], [[0.9, 0.8, 0.7]])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": X}, r"inputs \['x'\] were given, '.*adder' takes \['x', 'y'\]"),
        ({"x": X, "y": Y, "z": Y}, r"inputs \['x', 'y', 'z'\] were given"),
        ({"x": X.tolist(), "y": Y}, "input 'x' is a list, expected a NumPy array of float32"),
        ({"x": X.astype(np.float64), "y": Y}, "input 'x' is float64, '.*adder' takes float32"),
        ({"x": X[:, :2], "y": Y}, r"input 'x' has shape \[2, 2\], '.*adder' takes \['any', 3\]"),
        ({"x": X[0], "y": Y}, r"input 'x' has shape \[3\]"),
        ({"x": X * np.float32([1, np.nan, 1]), "y": Y}, "input 'x' has 2 values that are NaN"),
        ({"x": np.tile(X, (3, 1)), "y": np.tile(Y, (3, 1))}, "a batch of 6, '.*adder' takes 1 to 4"),
    ],
)
def test_wrong_inputs_are_one_line(adder, feeds, message):
    with pytest.raises(UserError, match=message):
        Runner(adder)(feeds)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_is_told_from_all_other_numbers(dtype):
    numbers = np.array([[0, -0.0, np.inf], [-np.inf, 1e-7, -3]], dtype)
    assert not has_nan(numbers) and not has_nan(numbers[:0]) and not has_nan(numbers[:, ::2])
    for nan in (np.nan, -np.nan):
        numbers[1, 1] = nan
        assert has_nan(numbers) and has_nan(numbers.T) and not has_nan(numbers[:, ::2])
    assert not has_nan(np.array([1 << 15], np.int32))


@pytest.mark.parametrize("field", ["inputs", "outputs", "batch"])
def test_a_manifest_without_a_field_is_one_line(adder, edit, field):
    edit(adder, lambda manifest: manifest.pop(field))
    with pytest.raises(UserError, match=f"damaged manifest .*{field}.*build the engine again"):
        Runner(adder)


@pytest.mark.parametrize("kind", [Detector, Classifier])
def test_an_engine_without_a_spec_is_no_detector_and_no_classifier(adder, kind):
    with pytest.raises(UserError, match=r"does not say how it wants images .* use effedge\.Runner"):
        kind(adder)


def test_predict_says_so_too(adder, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    command = [sys.executable, "-m", "effedge", "predict", str(adder), str(tmp_path / "x.png")]
    done = subprocess.run(command, cwd=str(ROOT), stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "use effedge.Runner" in done.stderr
