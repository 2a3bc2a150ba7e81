"""Quantizes a float ONNX with NNCF, ONNX Runtime or ModelOpt, for `make accuracy`, in a Python that has the package.

    PEERS_PYTHON pipeline/reports/accuracy/peers.py nncf SIMPLIFIED.onnx INPUTS.npy OUT

The script stands alone: it imports nothing of effedge, and effedge depends on none of the packages that it imports. OUT
is an empty folder, into which go model.xml (nncf) or model.onnx (onnxruntime) and report.json, with seconds and
peak_mib.

The peers are used as their documentation advises a careful user:

- nncf: `nncf.quantize` with its default preset on OpenVINO's reading of the ONNX, on every calibration image.
- onnxruntime: `quant_pre_process`, then `quantize_static`: Q/DQ, symmetric INT8 activations and weights, a scale per
  output channel, ranges by min-max.
- modelopt: NVIDIA's `modelopt.onnx.quantization.quantize`, INT8 on the CPU with its default ranges, by entropy;
  modelopt_max: the same with ranges by min-max, which is quicker.

NNCF and ONNX Runtime leave in float the nodes after the last convolutions or matrix products (a detector's
concatenation, TopK and decoding of boxes): pixel coordinates and class numbers do not fit into 8 bits, and a careful
user excludes them. The nodes before the first, the uint8 image's cast and normalization, they leave in float by
themselves. ModelOpt chooses all its nodes by itself.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if not installed: NNCF and OpenVINO do without

MODELOPT = ("nvidia-modelopt", "onnxruntime", "onnx")
PACKAGES = {
    "nncf": ("nncf", "openvino"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "modelopt": MODELOPT,
    "modelopt_max": MODELOPT,
}
WEIGHTED = ("Conv", "Gemm", "MatMul", "Convolution", "GroupConvolution")  # ONNX's names and OpenVINO's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=MAKERS)
    parser.add_argument("onnx", type=Path, help="float32, with one input")
    parser.add_argument("inputs", type=Path, help="an .npy of calibration inputs, [samples, ...]")
    parser.add_argument("out", type=Path, help="an empty folder")
    parser.add_argument("--versions", action="store_true", help="print the versions of the peer's packages, no more")
    args = parser.parse_args()
    if args.versions:
        print(json.dumps({name: importlib.metadata.version(name) for name in PACKAGES[args.peer]}))
        return
    started = time.perf_counter()
    MAKERS[args.peer](args.onnx, np.load(args.inputs, mmap_mode="r"), args.out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux counts it in KiB
    report = {"seconds": round(time.perf_counter() - started, 2), "peak_mib": peak}
    (args.out / "report.json").write_text(json.dumps(report) + "\n")


def make_nncf(onnx: Path, inputs: np.ndarray, out: Path) -> None:
    """Quantizes with NNCF; writes out/model.xml and .bin."""
    import nncf
    import openvino

    model = openvino.Core().read_model(onnx)
    nodes = [
        (
            node.get_friendly_name(),
            node.get_type_name(),
            {i.get_node().get_friendly_name() for i in node.input_values()},
        )
        for node in model.get_ordered_ops()
    ]
    kinds = {name: kind for name, kind, _ in nodes}
    # OpenVINO reads a convolution's bias as an Add behind it, which is quantized with the convolution.
    biases = {name for name, kind, before in nodes if kind == "Add" and any(kinds[i] in WEIGHTED for i in before)}
    names = [
        name
        for name in after_last_layers(nodes)
        if name not in biases and kinds[name] not in ("Constant", "Parameter", "Result")
    ]
    dataset = nncf.Dataset(range(len(inputs)), lambda index: inputs[index : index + 1])
    quantized = nncf.quantize(
        model, dataset, subset_size=len(inputs), ignored_scope=nncf.IgnoredScope(names=names, validate=False)
    )
    openvino.save_model(quantized, out / "model.xml", compress_to_fp16=False)


def make_onnxruntime(onnx: Path, inputs: np.ndarray, out: Path) -> None:
    """Quantizes with ONNX Runtime; writes out/model.onnx."""
    import onnx as onnx_package
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = ({name: inputs[i : i + 1]} for i in range(len(inputs)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(onnx), str(prepared))
        model = onnx_package.load(prepared)
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"unnamed_{index}"  # they are excluded by name
        quantize_static(
            model,
            str(out / "model.onnx"),
            Reader(model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=after_last_layers(onnx_nodes(model.graph.node)),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )


def make_modelopt(onnx: Path, inputs: np.ndarray, out: Path, method: str = "entropy") -> None:
    """Quantizes with ModelOpt; writes out/model.onnx."""
    import onnx as onnx_package
    from modelopt.onnx.quantization import quantize

    name = onnx_package.load(onnx, load_external_data=False).graph.input[0].name
    quantize(
        str(onnx),
        quantize_mode="int8",
        calibration_data={name: np.ascontiguousarray(inputs)},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out / "model.onnx"),
    )


def onnx_nodes(nodes: Iterable) -> list[tuple[str, str, set[str]]]:
    """Lists the nodes of an onnx.GraphProto, in its order, as `after_last_layers` takes them."""
    nodes = list(nodes)
    producer = {output: node.name for node in nodes for output in node.output}
    return [(node.name, node.op_type, {producer[i] for i in node.input if i in producer}) for node in nodes]


def after_last_layers(nodes: list[tuple[str, str, set[str]]]) -> list[str]:
    """Names the nodes after the last weighted ones: nodes from which no path leads to a weighted node.

    Args:
        nodes: (name, kind, names of the nodes that it reads from), in topological order.
    """
    leading: set[str] = set()  # weighted nodes, and nodes that lead to one
    for name, kind, before in reversed(nodes):
        if kind in WEIGHTED or name in leading:
            leading |= before | {name}
    return [name for name, _, _ in nodes if name not in leading]


MAKERS: dict[str, Callable[[Path, np.ndarray, Path], None]] = {
    "nncf": make_nncf,
    "onnxruntime": make_onnxruntime,
    "modelopt": make_modelopt,
    "modelopt_max": functools.partial(make_modelopt, method="max"),
}

if __name__ == "__main__":
    main()
