"""A detector whose own height and width are dynamic has the size that is asked for; without one an error says so."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from effedge.deploy.common.cli import UserError
from effedge.pipeline.export.heads.attach import attach_head
from effedge.pipeline.export.heads.priors import priors_of
from effedge.pipeline.export.heads.table import HEADS
from effedge.pipeline.export.simplify import simplify_file
from effedge.pipeline.models.tables import Size
from tests.pipeline.export.foreign_files import run_file, save
from tests.pipeline.export.heads.networks import APART, SIZE, apart_network, apart_size, maps, network
from tests.pipeline.export.heads.test_attach import ONE, attached

STRIDES = (8, 16, 32)


def write_dynamic(source, path, names=("batch", "height", "width")):
    """Writes a copy of a network whose input has symbols for its batch, height and width; None: it has no name."""
    model = onnx.load(source)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for axis, name in zip((0, 2, 3), names, strict=True):
        dims[axis].Clear()
        if name is not None:
            dims[axis].dim_param = name
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    onnx.save(model, path)
    return path


def small_network(name, path):
    """Writes a network of this head; returns it with its size."""
    if name not in APART:
        return network(name, path), SIZE
    size = apart_size(name)
    if name == "yunet":
        levels = tuple((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
        return apart_network(name, path, 0, 3, levels=levels), size
    count = len(priors_of(HEADS[name].priors, size)) if HEADS[name].priors else 500
    columns, decoded = 4 if HEADS[name].background else 3, "" if HEADS[name].priors else "relative"
    levels = tuple(9 * rows * across for rows, across in maps(name)) if "mmdet" in name else ()
    return apart_network(name, path, count, columns, decoded, levels), size


@pytest.mark.parametrize("symbols", [("batch", "height", "width"), (None, None, None)], ids=["named", "unnamed"])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_takes_a_size_for_a_dynamic_input(name, symbols, labels, tmp_path):
    source, size = small_network(name, tmp_path / "net.onnx")
    dynamic = write_dynamic(source, tmp_path / "dynamic.onnx", symbols)
    image = np.random.default_rng(3).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    expected = run_file(attached(source, name, labels, tmp_path), {"image": image})
    model = attach_head(dynamic, name, labels, ONE, Size(*size))
    ir.save(model, tmp_path / "sized.onnx")
    outputs = run_file(tmp_path / "sized.onnx", {"image": image})
    assert json.loads(model.metadata_props["effedge"])["input"]["size"] == list(size)
    for output, values in expected.items():
        np.testing.assert_array_equal(outputs[output], values)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_says_that_it_needs_a_size(name, labels, tmp_path):
    source, size = small_network(name, tmp_path / "net.onnx")
    dynamic = write_dynamic(source, tmp_path / "dynamic.onnx")
    with pytest.raises(UserError, match=r"\['batch', 3, 'height', 'width'\].* one height and width.*SIZE=HEIGHTxWIDTH"):
        attach_head(dynamic, name, labels, ONE)
    with pytest.raises(UserError, match=r"and SIZE \(--size\) 32 was given, which is for a dynamic one: leave it out"):
        attach_head(source, name, labels, ONE, Size(32, 32))
    attach_head(source, name, labels, ONE, Size(*size))  # that which it has


def yunet_of_convolutions(path, size):
    """Writes a YuNet of one convolution a level, at a size or with symbols for it (None), as `torch.onnx.export` does:
    the rows of a level are all of its map's cells."""
    random = np.random.default_rng(5)
    height, width = size or ("height", "width")
    nodes, constants, outputs = [], {"rows": np.int64([0, -1, 1]), "boxes": np.int64([0, -1, 4])}, {}
    for stride in STRIDES:
        for part, columns in (("cls", 1), ("obj", 1), ("bbox", 4)):
            at = f"{part}_{stride}"
            constants[f"w_{at}"] = random.normal(0, 0.001, (columns, 3, stride, stride)).astype(np.float32)
            nodes += [
                helper.make_node("Conv", ["images", f"w_{at}"], [f"map_{at}"], strides=[stride] * 2),
                helper.make_node("Transpose", [f"map_{at}"], [f"last_{at}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"last_{at}", "rows" if columns == 1 else "boxes"], [f"flat_{at}"]),
            ]
            nodes.append(helper.make_node("Sigmoid" if columns == 1 else "Identity", [f"flat_{at}"], [at]))
            rows = f"rows_{stride}" if size is None else (size[0] // stride) * (size[1] // stride)
            outputs[at] = [1, rows, columns]
    return save(path, nodes, {"images": [1, 3, height, width]}, outputs, constants)


def test_a_size_that_the_cells_do_not_divide_is_named_in_the_error(tmp_path):
    dynamic = yunet_of_convolutions(tmp_path / "dynamic.onnx", None)
    with pytest.raises(UserError, match=r"not those of this head .*; its size, 96x100, should be multiples of 32, the"):
        attach_head(dynamic, "yunet", None, ONE, Size(96, 100))


@pytest.mark.parametrize("size", [Size(64, 96), Size(160, 128)], ids=str)
def test_a_network_whose_rows_depend_on_its_size_computes_what_its_export_of_that_size_does(size, tmp_path):
    fixed = yunet_of_convolutions(tmp_path / "fixed.onnx", size)
    dynamic = yunet_of_convolutions(tmp_path / "dynamic.onnx", None)
    image = np.random.default_rng(3).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    expected = run_file(attached(fixed, "yunet", None, tmp_path), {"image": image})
    ir.save(attach_head(dynamic, "yunet", None, ONE, size), tmp_path / "sized.onnx")
    simplify_file(tmp_path / "sized.onnx", tmp_path / "simplified.onnx")
    assert expected["boxes"].shape[1] == sum(size.height * size.width // stride**2 for stride in STRIDES)
    for path in (tmp_path / "sized.onnx", tmp_path / "simplified.onnx"):
        outputs = run_file(path, {"image": image})
        for name, values in expected.items():
            np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-5)
