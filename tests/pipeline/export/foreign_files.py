"""ONNX files as other exporters write them: small networks of one kind each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effedge.pipeline.export.foreign_model import simplify_foreign_file

Shape = Sequence[int | str | None] | None
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
RANDOM = np.random.default_rng(0)
SIX = numpy_helper.from_array(np.array(6, np.float16))
ONE = (1, 1, 1)  # a batch
SQUARE = {"y": [1, 4, 8, 8]}  # of the networks `between`


def noise(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def value(name: str, shape: Shape, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """A tensor whose dimensions are sizes (-1 and 0 too, as they are), names, or None: without either."""
    info = helper.make_tensor_value_info(name, dtype, None if shape is None else ["" for _ in shape])
    for dim, size in zip(info.type.tensor_type.shape.dim, shape or (), strict=True):
        dim.Clear()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
    return info


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray],
    *,
    opset: int = 13,
    types: Mapping[str, int] | None = None,
) -> Path:
    """Writes a graph; up to opset 8 as IR 3, with the initializers among the inputs.

    Args:
        types: of the inputs and outputs that are not float32.
    """
    types = types or {}
    old = opset < 9
    graph = helper.make_graph(
        nodes,
        "foreign",
        [value(name, shape, types.get(name, FLOAT)) for name, shape in inputs.items()],
        [value(name, shape, types.get(name, FLOAT)) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    if old:
        graph.input.extend(value(tensor.name, list(tensor.dims), tensor.data_type) for tensor in graph.initializer)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if old else 8)
    onnx.save(model, path)
    return path


def conv(source: str = "x", name: str = "c", kernel: str = "w", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, kernel], [name], name=name, **{"pads": [1] * 4, **attributes})


def last(source: str, name: str = "y") -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w2"], [name], name=f"{name}_conv")


def between(
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Shape],
    *,
    x: Shape = (1, 4, 8, 8),
    inputs: Mapping[str, Shape] | None = None,
    **constants: np.ndarray,
) -> Callable[..., Path]:
    """A file of a convolution x -> c with 8 channels, `nodes`, and what else they read."""
    weights = {"w": noise(8, 4, 3, 3), "w2": noise(4, 8, 1, 1)}
    used = {name for node in nodes for name in node.input}
    kept = {name: array for name, array in weights.items() if name == "w" or name in used}

    def write(path: Path, opset: int = 13, half: bool = False) -> Path:
        arrays = {**kept, **constants}
        floats = [name for name, array in arrays.items() if array.dtype == np.float32 and name != "scales"]
        if half:
            arrays.update({name: arrays[name].astype(np.float16) for name in floats})
        types = dict.fromkeys(("x", *outputs), HALF) if half else {}
        return save(path, [conv(), *nodes], {"x": x, **(inputs or {})}, outputs, arrays, opset=opset, types=types)

    return write


def run_file(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs of a file as it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    needed = {each.name: feeds[each.name] for each in session.get_inputs()}
    return dict(zip(names, session.run(names, needed), strict=True))


def shapes_of(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in values}


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    """A node that is named by its first output."""
    return helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)


def simplified(tmp_path: Path, source: Path, batch: tuple[int, int, int] = ONE) -> Path:
    simplify_foreign_file(source, tmp_path / "out.onnx", batch, None)
    return tmp_path / "out.onnx"


def assert_equal(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (actual[name].dtype, actual[name].shape)
        np.testing.assert_allclose(array, actual[name], rtol=0, atol=tolerance * np.abs(array).max())
