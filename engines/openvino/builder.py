"""ONNX -> engine.xml and engine.bin, by OpenVINO, with the precision of every layer as the CPU executes it.

OpenVINO compiles for the CPU that it finds when the engine is loaded; the precision is a hint in the manifest that
the runtime passes on. So the builder compiles what it saved, here, and reads the executed graph
(`CompiledModel.get_runtime_model`): on another CPU the layers may run in another precision. Which form of swish is the
faster one is measured here too (engines/openvino/swish.py), and how many of the first blocks are faster in C++ of ours
(engines/openvino/cpu_blocks/choose.py).
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.progress import open_bar
from effedge.deploy.runtime.openvino_backend import compile_rest
from effedge.engines.build_options import AUTO, DEFAULT, EXACT, OFF, POLYNOMIAL, Choices
from effedge.engines.manifest import FRONT, Built, Layer
from effedge.engines.onnx_header import Header
from effedge.engines.openvino import swish
from effedge.engines.openvino.cpu_blocks.choose import Chosen, choose_front, save_front
from effedge.engines.openvino.cpu_blocks.find import find_blocks
from effedge.engines.openvino.fold_dequantize import fold_dequantize
from effedge.engines.openvino.normalize_before_transpose import arithmetic_first
from effedge.engines.openvino.own_bias import part_biases
from effedge.engines.targets import Target

ENGINE = "engine.xml"
HINT = "INFERENCE_PRECISION_HINT"
FULL = "f32"
# OpenVINO's name of a capability -> the hint. A CPU that has both takes bfloat16: it has float32's range, whereas FP16
# ends at 65504, which nothing checks under a hint; and AMX has it where FP16 is only for vectors.
SIXTEEN_BITS = {"BF16": "bf16", "FP16": "f16"}
# INT8 arithmetic reports its data's type; layers that only move bytes, as of the uint8 image, keep the type's name.
MULTIPLYING = ("Convolution", "Deconvolution", "MatMul", "FullyConnected")
INTEGERS = ("u8", "i8")
NOT_COUNTED = ("Const", "Input", "Output")  # no work
WITHOUT_BIAS = "/WithoutBiases"  # OpenVINO reads an ONNX Conv as this convolution and an Add, if the bias is not zero
STEPS = ("read", "swish", "front", "save", "compile")


def build(
    ov: Any,
    onnx: Path,
    folder: Path,
    header: Header,
    *,
    precision: str,
    target: Optional[Target] = None,
    choices: Choices = DEFAULT,
    disable_progress: bool,
) -> Built:
    """Write `folder`/engine.xml and engine.bin.

    Raises UserError if OpenVINO refuses the model, or fp16 is asked of a CPU without 16-bit arithmetic.
    """
    core = ov.Core()
    front = OFF if precision == "fp32" else choices.front
    config = {HINT: precision_hint(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), precision)}
    with open_bar(len(STEPS), "building", disable_progress) as bar:
        try:
            bar.set_postfix_str(STEPS[0])
            model = core.read_model(onnx)
            fold_dequantize(ov, model)
            blocks = None if front == OFF else find_blocks(model)
            arithmetic_first(ov, model)
            part_biases(ov, model)
            bar.update()
            bar.set_postfix_str(STEPS[1])
            model, form = choose_swish(ov, core, model, config, EXACT if precision == "fp32" else choices.swish)
            bar.update()
            bar.set_postfix_str(STEPS[2])
            chosen = choose_front(ov, core, model, blocks, config, front)
            bar.update()
            bar.set_postfix_str(STEPS[3])
            ov.save_model(model, folder / ENGINE, compress_to_fp16=precision == "fp16")
            if chosen is not None:
                save_front(folder, chosen)
            bar.update()
            bar.set_postfix_str(STEPS[4])
            compiled = compile_rest(core, folder / ENGINE, config, chosen and chosen.description.shapes)
            bar.update()
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot build '{onnx}': {reason(error)}") from error
    backend = {"name": "openvino", "version": ov.__version__, "config": config}
    if chosen is not None:
        backend["front"] = chosen.manifest()
    layers = front_layers(chosen, header) + executed_layers(compiled, header)
    return Built(ENGINE, backend, layers, "executed", swish=form)


def choose_swish(
    ov: Any, core: Any, model: Any, config: Dict[str, str], asked: str
) -> Tuple[Any, Optional[Dict[str, Any]]]:
    """The model with swish in the form that is asked for, and what the manifest says of it; None without any swish."""
    if asked == EXACT:
        return model, None
    changed = model.clone()
    if not swish.use_polynomial(ov, changed):
        return model, None
    ratio = None
    if asked == AUTO:
        latency = {"PERFORMANCE_HINT": "LATENCY", **config}
        ratio = swish.time_ratio(*(core.compile_model(one, "CPU", latency) for one in (changed, model)))
        if ratio is None or ratio > swish.WORTH:
            return model, {"form": EXACT, "error": 0.0, "ratio": ratio and round(ratio, 3)}
    return changed, {"form": POLYNOMIAL, "error": swish.FINEST.error, "ratio": ratio and round(ratio, 3)}


def precision_hint(capabilities: List[str], precision: str) -> str:
    """The hint for what is not INT8: FP16 or bfloat16, as this CPU has it, for fp16 and for int8's other layers.

    OpenVINO keeps what follows the last convolutions, the decoding of boxes, in float32 under either hint.
    """
    if precision == "fp32":
        return FULL
    for capability, hint in SIXTEEN_BITS.items():
        if capability in capabilities:
            return hint
    if precision == "int8":
        return FULL
    raise UserError(
        f"this CPU computes in neither FP16 nor bfloat16 (OpenVINO finds {', '.join(capabilities)}): "
        "build PRECISION=fp32 or int8 for it, or fp16 on the CPU that will run it"
    )


def front_layers(chosen: Optional[Chosen], header: Header) -> List[Layer]:
    """The convolutions that the front computes, with their ONNX nodes' names."""
    convolutions, layers = by_alias(header), []
    for precision, names in ({} if chosen is None else chosen.convolutions).items():
        plain = [name.split(WITHOUT_BIAS)[0] for name in names]
        layers += [Layer(convolutions.get(name, name), "Convolution", precision, FRONT) for name in plain]
    return layers


def by_alias(header: Header) -> Dict[str, str]:
    """The name of the ONNX node for each name that OpenVINO may give to a convolution."""
    return {alias: node.name for node in header.convolutions for alias in (node.name, *node.outputs)}


def executed_layers(compiled: Any, header: Header) -> List[Layer]:
    """The executed graph's layers. A convolution has its ONNX node's name, other layers OpenVINO's."""
    convolutions = by_alias(header)
    layers = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in operation.get_rt_info().items() if hasattr(value, "astype")}
        if info["layerType"] in NOT_COUNTED:
            continue
        originals = [one.split(WITHOUT_BIAS)[0] for one in info["originalLayersNames"].split(",")]
        merged = [one for one in originals if one in convolutions]
        name = convolutions[merged[0]] if merged else operation.get_friendly_name()
        kind = info["runtimePrecision"]
        is_int8 = info["layerType"] in MULTIPLYING and kind in INTEGERS
        layers.append(Layer(name, info["layerType"], "int8" if is_int8 else kind))
    return layers


def reason(error: Exception) -> str:
    """OpenVINO's last lines say what is wrong; those before, where in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-3:])
