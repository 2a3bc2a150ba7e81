"""Builds an engine for CPUs by OpenVINO: ONNX -> engine.xml and engine.bin, with each layer's precision as executed.

OpenVINO compiles for the CPU at hand when the engine is loaded; the precision is a hint in the manifest, which the
runtime passes on. The builder therefore compiles what it saved and reads the executed graph
(`CompiledModel.get_runtime_model`): on another CPU the layers may run in another precision. Three more decisions are
measured here: whether what is not INT8 is in 16 bits or in FP32 (engines/openvino/float_parts.py), which form of swish
is faster (engines/openvino/swish.py), and how many of the first blocks are faster in effedge's own C++
(engines/openvino/cpu_blocks/choose.py).
"""

import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from effedge.deploy.common.contracts import BackendDescription, SwishEntry
from effedge.deploy.common.messages import log, track
from effedge.deploy.common.outputs import disk_reason
from effedge.deploy.native.cpu_blocks.blocks import load_cpu_blocks
from effedge.deploy.runtime.openvino_backend import OpenVinoEngine, compile_model
from effedge.deploy.runtime.openvino_int8_sums import narrow_weights, saturates
from effedge.deploy.timing.machine import cores
from effedge.engines.build_options import AUTO, EXACT, OFF, POLYNOMIAL
from effedge.engines.build_request import BuildRequest, RefusedError
from effedge.engines.manifest import CPU_BLOCKS, MULTIPLYING, BuiltEngine, Layer
from effedge.engines.onnx_header import LAYER_OPERATORS, Header
from effedge.engines.openvino import race, swish
from effedge.engines.openvino.cpu_blocks.choose import ChosenBlocks, choose_cpu_blocks, save_cpu_blocks
from effedge.engines.openvino.cpu_blocks.find import find_blocks
from effedge.engines.openvino.float_parts import FULL, HINT, choose_float_parts
from effedge.engines.openvino.fold_dequantize import fold_dequantize
from effedge.engines.openvino.normalize_before_transpose import normalize_before_transpose
from effedge.engines.openvino.own_bias import copy_shared_biases
from effedge.engines.openvino.reader.correct import correct_reading
from effedge.engines.openvino.reader.search import Search

ENGINE = "engine.xml"
# A layer of INT8 arithmetic is reported with its data's type, u8 or i8, and counts as int8. A layer that only moves
# bytes, such as those of the uint8 image, has the same types and keeps their names.
INTEGERS = ("u8", "i8")
NOT_COUNTED = ("Const", "Input", "Output")  # they compute nothing
WITHOUT_BIAS = "/WithoutBiases"  # OpenVINO reads an ONNX Conv as this convolution and an Add, if the bias is not zero
PART = f"{WITHOUT_BIAS}|/DequantizationMultiply"  # and an INT8 MatMul as this product by its scales
STEPS = 6  # of a build, which `build` names


def build(ov: Any, request: BuildRequest, folder: Path) -> BuiltEngine:
    """Writes `folder`/engine.xml and engine.bin, and cpu_blocks.npz if the engine has CPU blocks.

    Raises RefusedError if OpenVINO refuses the model, UserError if fp16 is asked of a CPU without 16-bit arithmetic, or
    there are not as many CPU blocks as asked.
    """
    core, precision = ov.Core(), request.precision
    swish_form, cpu_blocks = request.build_options.swish, request.build_options.cpu_blocks
    if precision == "fp32":
        swish_form, cpu_blocks = EXACT, OFF
    with track(total=STEPS, desc="building") as bar:
        try:
            bar.set_postfix_str("read")
            model = core.read_model(request.onnx)
            corrected = correct_reading(ov, model, request.header)
            search = Search(ov, core, model_to_search(model, precision), request)
            fold_dequantize(ov, model)
            first_blocks = None if cpu_blocks == OFF else find_blocks(model)
            normalize_before_transpose(ov, model)
            copy_shared_biases(ov, model)
            bar.update()
            bar.set_postfix_str("float parts")
            hint, float_parts = choose_float_parts(core, model, request)
            config = {HINT: hint}
            if float_parts is not None and hint == FULL and cpu_blocks == AUTO:
                cpu_blocks = OFF  # they compute in 16 bits
            bar.update()
            bar.set_postfix_str("swish")
            model, swish_report = choose_swish(ov, core, model, config, swish_form)
            bar.update()
            bar.set_postfix_str("CPU blocks")
            blocks = choose_cpu_blocks(ov, core, model, first_blocks, config, cpu_blocks)
            bar.update()
            bar.set_postfix_str("save")
            ov.save_model(model, folder / ENGINE, compress_to_fp16=precision == "fp16")
            if blocks is not None:
                save_cpu_blocks(folder, blocks)
            bar.update()
            bar.set_postfix_str("compile")
            compiled = compile_model(core, folder / ENGINE, config, blocks and blocks.description.output_shapes)
            bar.update()
        except RuntimeError as error:
            if disk_reason(error) is not None:  # of the folder, not of the model: atomic_folder says it
                raise
            raise RefusedError(f"OpenVINO cannot build '{request.onnx}': {last_lines(error)}") from error
    backend: BackendDescription = {"name": "openvino", "version": ov.__version__, "config": config}
    if blocks is not None:
        backend["cpu_blocks"] = blocks.manifest_entry()
    layers = layers_of_blocks(blocks, request.header) + executed_layers(compiled, request.header)
    return BuiltEngine(
        ENGINE, backend, layers, "executed", float_parts=float_parts, swish=swish_report, corrected=corrected,
        search=search, run=OpenVinoEngine(compiled, load_cpu_blocks(folder / ENGINE, backend, cores())[0]),
    )  # fmt: skip


def model_to_search(model: Any, precision: str) -> Any:
    """Returns a copy of the model as it is loaded on this CPU."""
    copy = model.clone()
    if precision == "int8" and saturates():
        count = narrow_weights(copy)
        log.info(
            f"engine: this CPU has no VNNI, and adds pairs of INT8 products in 16 bits: the weights of {count} layers "
            "are rounded to larger steps when the engine is loaded here, so that no sum saturates"
        )
    return copy


def choose_swish(
    ov: Any, core: Any, model: Any, config: Dict[str, str], requested: str
) -> Tuple[Any, Optional[SwishEntry]]:
    """Returns the model with swish in the requested form, "auto" being the faster one, and the manifest's entry of it;
    None as the entry if the form is exact by request, or the model has no swish to replace."""
    if requested == EXACT:
        return model, None
    changed = model.clone()
    if not swish.use_polynomial(ov, changed):
        return model, None
    ratio = None
    if requested == AUTO:
        ratio = race.time_ratio(*(race.compile_for_latency(core, form, config) for form in (changed, model)))
        if ratio is None or ratio > swish.WORTHWHILE_RATIO:
            return model, {"form": EXACT, "error": 0.0, "ratio": ratio and round(ratio, 3)}
    return changed, {"form": POLYNOMIAL, "error": swish.FINEST.error, "ratio": ratio and round(ratio, 3)}


def layers_of_blocks(blocks: Optional[ChosenBlocks], header: Header) -> List[Layer]:
    """Lists the convolutions that the CPU blocks compute, with their ONNX nodes' names."""
    nodes, layers = nodes_by_alias(header), []
    for precision, names in ({} if blocks is None else blocks.convolutions).items():
        plain = [name.split(WITHOUT_BIAS)[0] for name in names]
        layers += [Layer(nodes.get(name, name), "Convolution", precision, CPU_BLOCKS) for name in plain]
    return layers


def nodes_by_alias(header: Header) -> Dict[str, str]:
    """Maps each name that OpenVINO may give to a convolution or a matrix product to the name of its ONNX node: its own,
    its output's, or that of a Cast behind it, which becomes a part of it."""
    layers = [node for node in header.nodes if node.op in LAYER_OPERATORS]
    aliases = {alias: node.name for node in layers for alias in (node.name, *node.outputs)}
    casts = {node.outputs[0]: aliases[node.inputs[0]] for node in header.nodes
             if node.op == "Cast" and node.inputs[0] in aliases}  # fmt: skip
    return {**casts, **aliases}


def executed_layers(compiled: Any, header: Header) -> List[Layer]:
    """Lists the executed graph's layers: those with weights by their ONNX nodes' names, any other by OpenVINO's."""
    nodes = nodes_by_alias(header)
    layers = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in operation.get_rt_info().items() if hasattr(value, "astype")}
        if info["layerType"] in NOT_COUNTED:
            continue
        originals = [re.split(PART, original)[0] for original in info["originalLayersNames"].split(",")]
        merged = [original for original in originals if original in nodes]
        name = nodes[merged[0]] if merged else operation.get_friendly_name()
        kind = info["runtimePrecision"]
        is_int8 = info["layerType"] in MULTIPLYING and kind in INTEGERS
        layers.append(Layer(name, info["layerType"], "int8" if is_int8 else kind))
    return layers


def last_lines(error: Exception) -> str:
    """Joins the last three lines of OpenVINO's message, which name the problem; those before name places in its
    sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-3:])
