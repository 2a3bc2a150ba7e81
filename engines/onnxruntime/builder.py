"""ONNX -> engine.onnx, the same model, for ONNX Runtime on a CPU, with the precision of every layer as it executes it.

ONNX Runtime optimizes the graph when the engine is loaded, and can write down what it then executes; that is read.

It has INT8 kernels for a convolution only where a QuantizeLinear follows it at once. effedge places none there, as it
would break the fusion of convolution and activation in TensorRT and OpenVINO, so most INT8 convolutions are computed in
float32 on dequantized numbers: INT8's results and size, float32's speed.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, List, Optional

from effedge.deploy.common.cli import UserError
from effedge.engines.build_options import DEFAULT, Choices
from effedge.engines.manifest import Built, Layer
from effedge.engines.onnx_header import Header, onnx_files, read_header
from effedge.engines.targets import Target

ENGINE = "engine.onnx"
ERRORS = 3  # its log's level
CONVOLUTION = "convolution"
PREFIXES = ("QLinear", "Fused", "Nhwc")  # of its own operators' names
INTEGER = ("QLinear", "ConvInteger", "MatMulInteger")


def build(
    onnxruntime: Any,
    onnx: Path,
    folder: Path,
    header: Header,
    *,
    precision: str,
    target: Optional[Target] = None,
    choices: Choices = DEFAULT,
    disable_progress: bool,
) -> Built:
    """Write `folder`/engine.onnx, and beside it the files that hold weights of it. Nothing can be chosen.

    Raises UserError if ONNX Runtime refuses the model.
    """
    for role, source in onnx_files(onnx).items():
        shutil.copyfile(str(source), str(folder / (ENGINE if role == "onnx" else role)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / ENGINE
        options.optimized_model_filepath = str(executed)
        try:
            onnxruntime.InferenceSession(str(folder / ENGINE), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class but Exception
            raise UserError(f"ONNX Runtime cannot build '{onnx}': {' '.join(str(error).split())}") from error
        layers = executed_layers(read_header(executed))
    built = Built(ENGINE, {"name": "onnxruntime", "version": onnxruntime.__version__}, layers, "executed", warnings=[])
    if precision == "int8":
        built.warnings.append(simulated(header, built))
    return built


def executed_layers(executed: Header) -> List[Layer]:
    """The layers that multiply: its own name for each, as layouts and fusions have made new ones of the ONNX's."""
    layers = []
    for node in executed.nodes:
        kind = node.op
        for prefix in PREFIXES:
            kind = kind[len(prefix) :] if kind.startswith(prefix) else kind
        if kind.startswith(("Conv", "MatMul", "Gemm")):
            name = CONVOLUTION if kind.startswith("Conv") else kind.lower()
            layers.append(Layer(node.name, name, "int8" if node.op.startswith(INTEGER) else "f32"))
    return layers


def simulated(header: Header, built: Built) -> str:
    whole = built.convolutions.get("int8", 0)
    return (
        f"ONNX Runtime computes {whole} of {len(header.quantized)} INT8 convolutions in INT8, the others in float32 on "
        "INT8's numbers: the results and the size are INT8's, the speed is float32's"
    )
