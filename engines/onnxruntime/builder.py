"""Builds an engine for ONNX Runtime on a CPU: ONNX -> engine.onnx, the same model, and reads each layer's precision.

ONNX Runtime optimizes the graph when the engine is loaded, and can write the graph that it then executes; the builder
reads the precisions from that graph.

ONNX Runtime has INT8 kernels for a convolution only where a QuantizeLinear follows it at once. effedge places none
there, because it would break the fusion of convolution and activation in TensorRT and OpenVINO. Most INT8 convolutions
are therefore computed in float32 on dequantized numbers: with INT8's results and size, and float32's speed.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, List

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import BackendDescription
from effedge.deploy.runtime.manifest import NAME as MANIFEST
from effedge.deploy.runtime.onnxruntime_backend import LOG_ERRORS, OnnxRuntimeEngine, make_session
from effedge.engines.build_request import BuildRequest
from effedge.engines.manifest import BuiltEngine, Layer
from effedge.engines.onnx_header import Header, onnx_files, read_header

ENGINE = "engine.onnx"
CONVOLUTION = "convolution"
PREFIXES = ("QLinear", "Fused", "Nhwc")  # of the names of ONNX Runtime's own operators
INTEGER = ("QLinear", "ConvInteger", "MatMulInteger")


def build(onnxruntime: Any, request: BuildRequest, folder: Path) -> BuiltEngine:
    """Writes `folder`/engine.onnx, and beside it the files that hold its weights. No build option applies.

    Raises UserError if ONNX Runtime refuses the model, or its weights are in a file of a name that the engine needs.
    """
    for role, source in onnx_files(request.onnx).items():
        target = folder / (ENGINE if role == "onnx" else role)
        if target.exists() or role == MANIFEST:
            raise UserError(
                f"'{request.onnx}' keeps its weights in '{role}', as a file of the engine is named: rename it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(source), str(target))
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / ENGINE

        def new_options() -> Any:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = LOG_ERRORS
            options.optimized_model_filepath = str(executed)
            return options

        try:
            session = make_session(str(folder / ENGINE), new_options, fp8=False)
        except Exception as error:  # its errors have no common class but Exception
            raise UserError(f"ONNX Runtime cannot build '{request.onnx}': {' '.join(str(error).split())}") from error
        layers = executed_layers(read_header(executed))
    backend: BackendDescription = {"name": "onnxruntime", "version": onnxruntime.__version__}
    built = BuiltEngine(ENGINE, backend, layers, "executed", run=OnnxRuntimeEngine(session, 1))
    if request.precision == "int8":
        built.warnings.append(describe_simulation(request.header, built))
    return built


def executed_layers(executed: Header) -> List[Layer]:
    """Lists the layers that multiply, by ONNX Runtime's names, because its fusions have replaced the ONNX's nodes."""
    layers = []
    for node in executed.nodes:
        kind = node.op
        for prefix in PREFIXES:
            kind = kind[len(prefix) :] if kind.startswith(prefix) else kind
        if kind.startswith(("Conv", "MatMul", "Gemm")):
            name = CONVOLUTION if kind.startswith("Conv") else kind.lower()
            layers.append(Layer(node.name, name, "int8" if node.op.startswith(INTEGER) else "f32"))
    return layers


def describe_simulation(header: Header, built: BuiltEngine) -> str:
    """Says how many of the INT8 convolutions are computed in INT8."""
    in_int8, quantized = built.convolutions.get("int8", 0), len(header.quantized_convolutions)
    return (
        f"ONNX Runtime computes {in_int8} of {quantized} INT8 convolutions in INT8, the others in float32 on "
        "INT8's numbers: the results and the size are INT8's, the speed at most float32's: PRECISION=fp32 may be faster"
    )
