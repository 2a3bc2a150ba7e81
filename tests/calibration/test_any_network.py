"""Networks that somebody else made: quantized from arrays, then run by ONNX Runtime and by an engine on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from effedge import Runner
from effedge.calibration.quantize import calibrate
from effedge.calibration.settings import DEFAULT, Settings
from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.onnxruntime_backend import make_session
from effedge.engines.build import build_engine
from effedge.engines.targets import TARGETS
from tests.calibration import networks

SAMPLES = 24
LEAST_DB, LEAST_DB_BETWEEN_RUNTIMES = 20, 30


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def normal(net: networks.Network, *shape: int) -> np.ndarray:
    """Weights [out, in, ...] that keep the variance."""
    return net.random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


def focus() -> networks.Network:
    """YOLOv5's stem: every second pixel in both directions as four times the channels."""
    net = networks.Network(2)
    x, parts = net.input("x", [1, 3, 32, 32]), []
    axes, steps, end = (
        net.constant(f"slice_{k}", integers(v, w)) for k, v, w in (("axes", 2, 3), ("by", 2, 2), ("to", 32, 32))
    )
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        start = net.constant(f"from{row}{column}", integers(row, column))
        parts.append(net.node("Slice", [x, start, end, axes, steps], f"slice{row}{column}"))
    stem = net.silu(net.conv(net.node("Concat", parts, "focus", axis=1), "stem", 12, 16, kernel=3), "act")
    net.output(net.conv(stem, "y", 16, 8, kernel=3, stride=2), [1, 8, 8, 8])
    return net


def transposes() -> networks.Network:
    """Channels last at both ends, as TensorFlow's converters write it."""
    net = networks.Network(3)
    moved = net.node("Transpose", [net.input("x", [2, 12, 10, 6])], "nchw", perm=[0, 3, 1, 2])
    conv = net.node("Relu", [net.conv(moved, "conv1", 6, 16, kernel=3)], "relu")
    back = net.node("Transpose", [net.conv(conv, "conv2", 16, 8)], "y", perm=[0, 2, 3, 1])
    net.output(back, [2, 12, 10, 8])
    return net


def split_and_concat() -> networks.Network:
    """A cross-stage partial block: half of the channels goes around."""
    net = networks.Network(4)
    x = net.silu(net.conv(net.input("x", [1, 8, 16, 16]), "conv1", 8, 16), "act1")
    net.nodes.append(
        helper.make_node("Split", [x, net.constant("halves", integers(8, 8))], ["a", "b"], name="split", axis=1)
    )
    deep = net.node("Add", [net.silu(net.conv("b", "conv2", 8, 8, kernel=3), "act2"), "b"], "add")
    net.output(net.conv(net.node("Concat", ["a", deep], "joined", axis=1), "y", 16, 8), [1, 8, 16, 16])
    return net


def hard_swish(as_operator: bool) -> networks.Network:
    """MobileNetV3's activation, as exporters write it before opset 14 and since."""
    net = networks.Network(5)
    x = net.conv(net.input("x", [1, 4, 16, 16]), "conv1", 4, 16, kernel=3)
    if as_operator:
        act = net.node("HardSwish", [x], "act")
    else:
        act = net.node("Mul", [x, net.node("HardSigmoid", [x], "gate", alpha=1 / 6, beta=0.5)], "act")
    net.output(net.conv(act, "y", 16, 8, kernel=3), [1, 8, 16, 16])
    return net


def prelu_and_grouped() -> networks.Network:
    """Slopes per channel, and a convolution in four groups."""
    net = networks.Network(6)
    x = net.conv(net.input("x", [1, 8, 16, 16]), "conv1", 8, 16, kernel=3)
    slope = net.constant("slope", np.linspace(-0.2, 0.4, 16, dtype=np.float32).reshape(16, 1, 1))
    grouped = net.conv(net.node("PRelu", [x, slope], "prelu"), "grouped", 16, 32, kernel=3, group=4)
    net.output(net.conv(net.node("Relu", [grouped], "relu"), "y", 32, 8), [1, 8, 16, 16])
    return net


def up_and_down() -> networks.Network:
    """A U-Net's last level: stride 2 and back by ConvTranspose, joined with what went around."""
    net = networks.Network(7)
    x = net.node("Relu", [net.conv(net.input("x", [1, 4, 16, 16]), "conv1", 4, 8, kernel=3)], "relu1")
    deep = net.node("Relu", [net.conv(x, "conv2", 8, 16, kernel=3, stride=2)], "relu2")
    names = [
        deep,
        net.constant("up.weight", normal(net, 16, 8, 2, 2) * 4),
        net.constant("up.bias", np.zeros(8, np.float32)),
    ]
    up = net.node("ConvTranspose", names, "up", strides=[2, 2], kernel_shape=[2, 2])
    net.output(net.conv(net.node("Concat", [up, x], "joined", axis=1), "y", 16, 4, kernel=3), [1, 4, 16, 16])
    return net


def matrices() -> networks.Network:
    """No convolution at all: Gemm both ways round, MatMul with constant weights, LayerNormalization by hand."""
    net = networks.Network(8)
    x = net.input("x", [1, 32])
    bias = net.constant("bias", net.random.normal(0, 0.1, 48).astype(np.float32))
    wide = net.node("Gemm", [x, net.constant("w1", normal(net, 48, 32)), bias], "gemm1", transB=1)
    act = net.node("Relu", [wide], "relu")
    narrow = net.node("MatMul", [act, net.constant("w2", normal(net, 24, 48).T.copy())], "matmul")
    even = net.node("Sub", [narrow, net.node("ReduceMean", [narrow, net.constant("axes", integers(1))], "mean")], "sub")
    last = [even, net.constant("w3", normal(net, 10, 24).T.copy()), net.constant("b3", np.zeros(10, np.float32))]
    net.output(net.node("Gemm", last, "y"), [1, 10])
    return net


def one_dimensional() -> networks.Network:
    """A sound's convolutions, [N,C,L]."""
    net = networks.Network(9)
    x = net.input("x", [1, 4, 128])
    first = net.node("Conv", [x, net.constant("w1", normal(net, 16, 4, 9))], "conv1", strides=[2], pads=[4, 4])
    second = net.node(
        "Conv", [net.silu(first, "act"), net.constant("w2", normal(net, 24, 16, 5))], "conv2", dilations=[2]
    )
    pooled = net.node("MaxPool", [second], "pool", kernel_shape=[2], strides=[2])
    net.output(net.node("Conv", [pooled, net.constant("w3", normal(net, 8, 24, 1))], "y"), [1, 8, 28])
    return net


def two_inputs_any_batch() -> networks.Network:
    """A image and a vector that scales its channels; the batch is dynamic."""
    net = networks.Network(10)
    x = net.silu(net.conv(net.input("x", ["n", 4, 12, 12]), "conv1", 4, 8, kernel=3), "act1")
    scaled = net.node("Mul", [x, net.input("scale", ["n", 8, 1, 1])], "scaled")
    net.output(net.conv(scaled, "y", 8, 8, kernel=3), ["n", 8, 12, 12])
    return net


def constant_image() -> networks.Network:
    """A learnt image (as of positions) that a convolution of its own reads, no input: there is no range to see."""
    net = networks.Network(12)
    learnt = net.constant("learnt", net.random.normal(size=(1, 4, 12, 12)).astype(np.float32))
    sides = [net.conv(net.input("x", [1, 4, 12, 12]), "conv1", 4, 8, kernel=3), net.conv(learnt, "conv2", 4, 8)]
    net.output(net.conv(net.silu(net.node("Add", sides, "sum"), "act"), "y", 8, 6, kernel=3), [1, 6, 12, 12])
    return net


def opset_11() -> networks.Network:
    """Attributes that became inputs at 13: Unsqueeze's and ReduceSum's axes, Split's sizes; Softmax of two axes."""
    net = networks.Network(11)
    x = net.conv(net.input("x", [1, 4, 12, 12]), "conv1", 4, 16, kernel=3)
    net.nodes.append(helper.make_node("Split", [x], ["a", "b"], name="split", axis=1, split=[8, 8]))
    mixed = net.node("Add", [net.node("Relu", ["a"], "relu"), "b"], "add")
    summed = net.node("ReduceSum", [net.conv(mixed, "conv2", 8, 6, kernel=3)], "sum", axes=[2], keepdims=0)
    row = net.node("Squeeze", [net.node("Unsqueeze", [summed], "column", axes=[3])], "row", axes=[3])
    net.output(net.node("Softmax", [row], "y", axis=1), [1, 6, 12])
    return net


NETWORKS: dict[str, tuple[Callable[[], networks.Network], int]] = {
    "focus": (focus, 17),
    "transposes": (transposes, 17),
    "split": (split_and_concat, 17),
    "hard swish": (lambda: hard_swish(False), 13),
    "HardSwish": (lambda: hard_swish(True), 17),
    "PRelu, grouped": (prelu_and_grouped, 16),
    "ConvTranspose": (up_and_down, 17),
    "matrices": (matrices, 18),
    "1-D": (one_dimensional, 17),
    "two inputs": (two_inputs_any_batch, 17),
    "constant image": (constant_image, 17),
    "opset 11": (opset_11, 11),
}


def arrays(model: Path, count: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal data for each input, `count` samples of it."""
    random = np.random.default_rng(seed)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(model).graph.input
    }
    return {name: random.normal(size=(count, *shape[1:])).astype(np.float32) for name, shape in shapes.items()}


def run_onnx(model: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = make_session(str(model), onnxruntime.SessionOptions, fp8=False)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def decibels(reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The lowest signal-to-noise ratio of the outputs."""
    return min(
        10 * np.log10(np.square(wanted).sum() / max(1e-30, np.square(wanted - other[name]).sum()))
        for name, wanted in reference.items()
    )


def check(model: Path, folder: Path, batch: int = 1, settings: Settings = DEFAULT) -> None:
    """Quantize `model`, build it for the CPU, and hold both against the float model on other data."""
    int8, engine = folder / "int8.onnx", folder / "engine"
    np.savez(folder / "data.npz", **arrays(model))
    assert calibrate(model, folder / "data.npz", int8, settings=settings, images=SAMPLES)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(int8).graph.node}
    onnx.checker.check_model(str(int8), full_check=True)
    feeds = arrays(model, batch, seed=1)
    reference, quantized = run_onnx(model, feeds), run_onnx(int8, feeds)
    assert decibels(reference, quantized) > LEAST_DB
    pytest.importorskip("openvino")
    engine.mkdir()
    build_engine(int8, engine, precision="int8", target=TARGETS["cpu"])
    built = Runner(engine)(feeds)
    assert decibels(reference, built) > LEAST_DB
    assert decibels(quantized, built) > LEAST_DB_BETWEEN_RUNTIMES


@pytest.mark.parametrize("zero_points", [False, True], ids=["", "zero points"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_written_node_by_node(name: str, zero_points: bool, tmp_path: Path) -> None:
    make, opset = NETWORKS[name]
    model = make().save(tmp_path / "net.onnx", opset=opset)
    settings = Settings(zero_points=zero_points)
    check(model, tmp_path, batch={"transposes": 2, "two inputs": 3}.get(name, 1), settings=settings)


@pytest.mark.parametrize("dynamo", [False, True], ids=["opset 11 by tracing", "opset 18 by torch.export"])
def test_a_network_that_torch_exports(dynamo: bool, tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.prelu = (
                nn.Conv2d(12, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.PReLU(16),
            )
            self.grouped, self.swish = nn.Conv2d(16, 32, 3, 2, 1, groups=4), nn.Hardswish()
            self.up, self.classes = nn.ConvTranspose2d(32, 16, 2, 2), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            parts = [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
            x = self.prelu(self.norm(self.stem(torch.cat(parts, 1))))
            a, b = self.swish(self.grouped(x)).chunk(2, 1)
            x = self.up(torch.cat([torch.sigmoid(a) * b, b], 1)) + x
            return self.classes(x.mean((2, 3))), x

    torch.manual_seed(0)
    options = {"dynamo": True, "opset_version": 18} if dynamo else {"dynamo": False, "opset_version": 11}
    path, example = tmp_path / "net.onnx", torch.zeros(1, 3, 32, 32)
    names = {"input_names": ["x"], "output_names": ["logits", "features"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own older exporter
        torch.onnx.export(Net().eval(), (example,), path, **names, **options, external_data=False, verbose=False)
    check(path, tmp_path)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(prelu_and_grouped().proto(17), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    check(path, tmp_path)


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_data_that_never_changes_crashes_nothing(value: float, tmp_path: Path) -> None:
    model = hard_swish(False).save(tmp_path / "net.onnx", opset=13)
    data = {name: np.full_like(array, value) for name, array in arrays(model).items()}
    np.savez(tmp_path / "data.npz", **data)
    calibrate(model, tmp_path / "data.npz", tmp_path / "int8.onnx")
    feeds = {name: array[:1] for name, array in data.items()}
    [output] = run_onnx(tmp_path / "int8.onnx", feeds).values()
    assert np.isfinite(output).all()
    assert decibels(run_onnx(model, feeds), {"y": output}) > LEAST_DB


def test_all_zero_through_a_network_without_biases_is_one_line(tmp_path: Path) -> None:
    model = one_dimensional().save(tmp_path / "net.onnx", opset=17)
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 4, 128), np.float32))
    refused(model, tmp_path, "0 on all calibration data")


def refused(model: Path, folder: Path, message: str, data: str = "data.npz") -> None:
    """A UserError with one line, and no artefact."""
    with pytest.raises(UserError, match=message) as caught:
        calibrate(model, folder / data, folder / "out" / "int8.onnx")
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("out/*"))


def logarithm(path: Path) -> Path:
    """Not a number where the input is below 0, infinite where it is 0."""
    net = networks.Network(12)
    x = net.node("Log", [net.input("x", [1, 4, 8, 8])], "log")
    net.output(net.conv(net.conv(x, "conv1", 4, 8), "y", 8, 4), [1, 4, 8, 8])
    return net.save(path, opset=17)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_activation_that_is_no_number_names_the_tensor_and_the_sample(value: float, tmp_path: Path) -> None:
    model, data = logarithm(tmp_path / "net.onnx"), np.ones((8, 4, 8, 8), np.float32)
    data[5, 2, 3, 3] = value
    np.savez(tmp_path / "data.npz", x=data)
    refused(model, tmp_path, r"'log'.*sample 5|sample 5.*'log'")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"x": np.zeros((4, 8, 8, 16), np.float32)},
            r"array 'x' of .* has shape \[4, 8, 8, 16\], the model takes \[samples,",
        ),
        ({"x": np.zeros((8, 16, 16), np.float32)}, r"array 'x' of .* has shape \[8, 16, 16\]"),
        ({"x": np.zeros((0, 8, 16, 16), np.float32)}, "is empty: expected at least one sample"),
        ({"x": np.zeros((4, 8, 16, 16))}, "is float64, the model takes float32"),
        ({"x": np.zeros((4, 8, 16, 16), np.uint8)}, "is uint8, the model takes float32"),
        ({"X": np.zeros((4, 8, 16, 16), np.float32)}, r"has \['X'\], but the model also needs \['x'\]"),
        ({"x": np.full((4, 8, 16, 16), np.nan, np.float32)}, "input 'x' is NaN or infinite in sample 0"),
    ],
)
def test_arrays_that_do_not_suit_the_inputs_are_one_line(
    data: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", **data)
    refused(split_and_concat().save(tmp_path / "net.onnx", opset=17), tmp_path, message)


def test_one_array_for_two_inputs_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((4, 4, 12, 12), np.float32))
    model = two_inputs_any_batch().save(tmp_path / "net.onnx", opset=17)
    refused(model, tmp_path, r"is one array, but the model has inputs \['x', 'scale'\]", "data.npy")


def test_a_model_that_is_quantized_already_is_one_line(tmp_path: Path) -> None:
    model = transposes().save(tmp_path / "float.onnx", opset=17)
    np.savez(tmp_path / "data.npz", **arrays(model))
    calibrate(model, tmp_path / "data.npz", tmp_path / "int8.onnx")
    refused(tmp_path / "int8.onnx", tmp_path, "is already quantized")


def test_weights_that_are_missing_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(transposes().proto(17), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    np.savez(tmp_path / "data.npz", **arrays(path))
    (tmp_path / "w.bin").unlink()
    refused(path, tmp_path, "w.bin', which is missing")
