"""Tests INT8 by ranges: the calibration cache read back, and the ranges on a network's tensors."""

from types import SimpleNamespace

import pytest

from effedge.calibration.tensorrt_cache import cache_text
from effedge.deploy.common.cli import UserError
from effedge.engines.tensorrt.ranges import read_ranges, set_ranges
from tests.engines.tensorrt_versions import TENSOR, VERSIONS, Member

RANGES = {"image": 127.0, "b: c/d": 12.7, "zero": 0.0}


def network(version, *names):
    tensors = [Member(TENSOR[version], name=name) for name in names]
    layers = [SimpleNamespace(num_outputs=1, get_output=lambda index, one=one: one) for one in tensors[1:]]
    return SimpleNamespace(
        num_inputs=1, get_input=lambda index: tensors[0], num_layers=len(layers), get_layer=layers.__getitem__
    )


def test_what_the_calibration_writes_is_read_back(tmp_path):
    (tmp_path / "c.cache").write_text(cache_text(RANGES, 8601))
    assert read_ranges(tmp_path / "c.cache") == pytest.approx(RANGES, rel=1e-6)


def test_a_cache_of_tensorrt_itself_leaves_leading_zeros_out(tmp_path):
    (tmp_path / "c.cache").write_text("TRT-8502-EntropyCalibration2\nx: 3c010204\ny: 0\n")
    assert read_ranges(tmp_path / "c.cache") == pytest.approx({"x": 1.0, "y": 0.0}, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the calibration cache"),
        (b"", "its first line is ''"),
        (b"\x08\x07\xff\xfe", "cannot read the calibration cache"),
        (b"ir_version: 8", "no calibration cache, its first line is 'ir_version: 8'"),
        (b"TRT-8601-EntropyCalibration2\nx: 0.25\n", "line 2 of the calibration cache .* 'x: 0.25', expected"),
    ],
)
def test_another_file_is_refused_on_one_line(tmp_path, content, message):
    path = tmp_path / "c.cache"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_ranges(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "11.1"])
def test_ranges_are_symmetric_and_a_tensor_that_is_always_0_has_none(tmp_path, version):
    made = network(version, *RANGES, "other")
    assert set_ranges(made, RANGES, tmp_path) == 2
    found = [made.get_input(0).set] + [made.get_layer(index).get_output(0).set for index in range(3)]
    assert found == [{"dynamic_range": (-127.0, 127.0)}, {"dynamic_range": (-12.7, 12.7)}, {}, {}]


def test_the_cache_of_another_onnx_is_refused(tmp_path):
    with pytest.raises(UserError, match="names 'b: c/d', which the ONNX does not have: give the float ONNX"):
        set_ranges(network("8.6", "image", "zero"), RANGES, tmp_path)
    with pytest.raises(UserError, match="has no ranges"):
        set_ranges(network("8.6", "image"), {}, tmp_path)
