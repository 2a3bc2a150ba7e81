"""No .npz or .npy of a user, however damaged, is more than one line of error."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from onnx import TensorProto

from effedge.calibration.ranges.samples import Input, array_samples
from effedge.engines.comparison.inputs import inputs_of_run
from effedge.engines.onnx_header import Header
from tests.fuzz.strategies import FAST, SLOW, damaged, one_line_or, run_of

COUNTS = [FAST, pytest.param(SLOW // 2, marks=pytest.mark.slow)]
HEADER = Header(17, {}, None, [], {"x": (TensorProto.FLOAT, (1, 3))}, {}, {}, ())


def encoded(suffix: str) -> bytes:
    file, array = io.BytesIO(), np.arange(12, dtype=np.float32).reshape(4, 3)
    if suffix == "npy":
        np.save(file, array)
    else:
        (np.savez if suffix == "npz" else np.savez_compressed)(file, x=array)
    return file.getvalue()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("suffix", ["npy", "npz", "compressed.npz"])
def test_a_damaged_file_of_arrays_is_one_line(tmp_path, suffix, count):
    path = tmp_path / f"a.{suffix}"
    inputs = [Input("x", np.dtype(np.float32), (None, 3))]

    def load() -> None:
        samples = array_samples(path, inputs, 1)
        for index in range(len(samples)):
            samples.load(index)

    @run_of(count)
    @given(damaged(encoded(suffix)))
    def run(content):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of a header in Python 2's form
            one_line_or(load)
            one_line_or(lambda: inputs_of_run(HEADER, str(path)))

    run()
