"""Simplifies an exported ONNX, and verifies that it still computes the same.

    effedge simplify build/d0-digits/model.onnx --out build/d0-digits/simplified.onnx

onnx-simplifier folds constants; effedge's passes move pads into convolutions and fold the BatchNorms that share a
kernel; the opset is lowered to one that the oldest target reads. Then the graphs before and after run on a photograph,
and the stage fails if their outputs differ. An ONNX from any other exporter runs on random numbers
(`effedge.pipeline.export.foreign_model`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.contracts import SPEC_KEY
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_file
from effedge.engines.onnx_header import LAYER_OPERATORS, read_header
from effedge.engines.stage import run_stage
from effedge.pipeline.export.compare_outputs import (
    TOLERANCE,
    Difference,
    Outputs,
    difference_by_range,
    run_outputs,
    with_raw_heads,
)
from effedge.pipeline.export.heads.table import ALL_HEADS
from effedge.pipeline.export.input_size import fix_header
from effedge.pipeline.models.tables import parse_size

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# TensorRT 8.2 of JetPack 4.6 reads opset 13, and every later reader does.
OPSET = 13
IR_VERSION = 8
ROUNDING = 4.0  # times what rounding of the weights does: folding a BatchNorm rounds them too, and then adds otherwise
MOST_ROUNDING = 0.01  # of the range; where rounding does more, a difference says nothing
WRONG_OPTIMIZERS = ["fuse_pad_into_pool"]  # pads a pool by its kernel and more; passes/fuse_pad.py does it in its place
TOOLS = ("onnx", "onnxsim", "onnx-ir", "onnxruntime")


@dataclass(frozen=True)
class Trial:
    """A run of the graphs before and after simplification.

    feeds: the inputs by name.
    difference: the measure of the difference between the outputs.
    raw_heads: compare the inputs of a detector's candidate selection too.
    data: of another project's model, the name of the feeds in the message, such as "random numbers"; else empty.
    """

    feeds: Outputs
    difference: Difference
    raw_heads: bool = False
    data: str = ""

    def run(self, model: onnx.ModelProto, source: Path) -> dict[str, np.ndarray]:
        """Runs a graph on the feeds."""
        return run_outputs(with_raw_heads(model) if self.raw_heads else model, self.feeds, source)

    def tolerance(self, apart: float, least: float, model: onnx.ModelProto, reference: Outputs, source: Path) -> float:
        """Returns the largest difference that is rounding: `least`; where a run is further `apart`, what comes of
        layers' weights that are a unit in the last place larger or smaller, if that is more.

        Args:
            model, reference: the graph before, and its outputs.
        """
        if apart <= least:
            return least
        rounding = self.difference(reference, self.run(with_rounded_weights(model), source))
        return max(least, ROUNDING * rounding) if rounding <= MOST_ROUNDING else least


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Simplifies a graph; it keeps its metadata, and is at OPSET unless an operator does not exist there.

    Outputs stay as they are; inputs that no node reads are removed.

    Raises:
        UserError: onnx-simplifier's own check failed.
    """
    import onnx
    import onnx_ir as ir
    import onnx_ir.passes.common as common
    import onnxsim

    from effedge.pipeline.export.passes.fold_batch_norm import fold_batch_norm
    from effedge.pipeline.export.passes.fold_scale import fold_scale
    from effedge.pipeline.export.passes.fuse_pad import fuse_pad
    from effedge.pipeline.export.passes.graph_ends import eliminate_identity, remove_unread_inputs
    from effedge.pipeline.export.passes.lower_opset import lower_opset, obstacle
    from effedge.pipeline.export.passes.squeeze_weight import squeeze_weight

    try:
        simplified, checked = onnxsim.simplify(model, skipped_optimizers=WRONG_OPTIMIZERS)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        log.info(f"simplify: onnx-simplifier folds constants only ({' '.join(str(error).split())})")
        simplified, checked = onnxsim.simplify(model, perform_optimization=False)
    if not checked:
        raise UserError("onnx-simplifier's own check failed; this graph cannot be simplified")
    graph = ir.from_proto(simplified)
    fuse_pad(graph)
    fold_batch_norm(graph)
    fold_scale(graph)
    squeeze_weight(graph)
    if obstacle(graph, OPSET) is None:
        lower_opset(graph, OPSET)
        graph.ir_version = IR_VERSION
    eliminate_identity(graph.graph)
    common.RemoveUnusedNodesPass()(graph)
    remove_unread_inputs(graph.graph)
    common.RemoveUnusedOpsetsPass()(graph)
    graph.metadata_props.clear()
    graph.metadata_props.update({entry.key: entry.value for entry in model.metadata_props})
    return onnx.shape_inference.infer_shapes(ir.to_proto(graph))


def simplify_verified(model: ir.Model, source: Path, out: Path, trial: Trial) -> None:
    """Simplifies a model that was read from `source`, verifies the outputs by a trial, and writes it to `out`.

    A foreign model that cannot be simplified is written as it is, with a warning: shape inference of ONNX gives some
    operators another size than ONNX Runtime computes, and onnx-simplifier believes it.

    Raises:
        UserError: ONNX Runtime refuses the model; a model of effedge cannot be simplified, or its outputs changed.
    """
    import onnx_ir as ir

    from effedge.calibration.graph import onnx_file
    from effedge.pipeline.export.output_shapes import name_wrong_sizes

    before = ir.to_proto(model)
    reference = trial.run(before, source)
    name_wrong_sizes(before, reference)
    try:
        after, apart = simplified_alike(before, reference, source, trial)
    except UserError as error:
        if not trial.data:
            raise
        log.warning(f"note: {error}; so it is built as it is")
        after, apart = unsimplified(before), 0.0
    kept = {value.name for value in after.graph.input}
    unread = [value.name for value in before.graph.input if value.name not in kept]
    if not kept:
        raise UserError(f"the outputs of '{source}' depend on none of its inputs: export it again")
    if unread:
        log.info(f"simplify: no output depends on input {', '.join(unread)}, so the engine is without it")
    opset = next((entry.version for entry in after.opset_import if entry.domain in ("", "ai.onnx")), 0)
    nodes = f"{len(before.graph.node)} -> {len(after.graph.node)} nodes"
    outputs = f"outputs on {trial.data}" if trial.data else "outputs"
    log.info(f"simplify: {nodes}, opset {opset}, {outputs} within {apart:.1e} of their range")
    onnx_file.save(ir.from_proto(after), out)


def simplified_alike(
    before: onnx.ModelProto, reference: Outputs, source: Path, trial: Trial
) -> tuple[onnx.ModelProto, float]:
    """Returns the simplified graph, and the difference of its outputs from the `reference`.

    Raises:
        UserError: onnx-simplifier refuses the model, or its outputs changed.
    """
    import onnx

    from effedge.pipeline.export.output_shapes import infer_named_sizes

    try:
        after = simplify(before)
        infer_named_sizes(after)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"onnx-simplifier refuses '{source}': {' '.join(str(error).split())}") from error
    apart = trial.difference(reference, trial.run(after, Path(f"{source}, simplified")))
    tolerance = trial.tolerance(apart, TOLERANCE, before, reference, source)
    if not apart <= tolerance:
        numbers = [array for array in reference.values() if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
        if not all(np.isfinite(array).all() for array in numbers):
            raise UserError(
                f"'{source}' computes NaN or infinity on {trial.data or 'a photograph'}: nothing can be compared with "
                "that; look at its weights, or at the range of pixels that it expects (--head)"
            )
        raise UserError(
            f"simplifying '{source}' changed its outputs by {apart:.1e} of their range (at most {tolerance:.0e} is "
            "rounding)"
        )
    return after, apart


def with_rounded_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copies a graph, with each weight of its layers one unit in the last place larger or smaller, by chance."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {name for node in copy.graph.node if node.op_type in LAYER_OPERATORS for name in node.input[1:2]}
    tensors = [tensor for tensor in copy.graph.initializer if tensor.name in weights]
    constants = [node for node in copy.graph.node if node.op_type == "Constant" and node.output[0] in weights]
    tensors += [attribute.t for node in constants for attribute in node.attribute if attribute.name == "value"]
    random = np.random.default_rng(0)
    for tensor in tensors:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            towards = np.where(random.integers(0, 2, array.shape, bool), np.inf, -np.inf)
            rounded = np.nextafter(array, towards.astype(np.float32))
            tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
    return copy


def unsimplified(before: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph without the nodes and inputs that no output depends on."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    from effedge.pipeline.export.passes.graph_ends import remove_unread_inputs

    graph = ir.from_proto(before)
    common.RemoveUnusedNodesPass()(graph)
    remove_unread_inputs(graph.graph)
    return ir.to_proto(graph)


def photograph(height: int, width: int) -> np.ndarray:
    """Returns scikit-learn's photograph of a flower, uint8 [1,height,width,3]."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("flower.jpg")).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)[None]


def simplify_file(source: Path, out: Path) -> None:
    """Simplifies the export of a model of effedge, or another project's with a head, and verifies it on a photograph.

    Raises:
        UserError: `source` is no ONNX file, or as `simplify_verified`.
    """
    from effedge.calibration.graph import onnx_file

    model = onnx_file.read(source)
    shape = model.graph.inputs[0].shape or ()
    batch, height, width, _ = (size if isinstance(size, int) else 1 for size in shape)
    images = np.repeat(photograph(height, width), batch, axis=0)
    with_head = json.loads(model.metadata_props.get(SPEC_KEY, "{}")).get("weights") in ALL_HEADS
    data = "a photograph" if with_head else ""
    simplify_verified(model, source, out, Trial({"image": images}, difference_by_range, raw_heads=True, data=data))


def simplify_stage(source: Path, artefact: Path) -> bool:
    """Runs `simplify_file` as a stage; see `effedge.engines.stage.run_stage`."""
    return run_stage(
        "simplify",
        artefact,
        inputs={"onnx": source},
        options={"opset": OPSET, "tolerance": TOLERANCE},
        tools=TOOLS,
        code=[__name__],
        make=lambda temporary: simplify_file(source, temporary),
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("onnx", type=Path, help="float32 or float16, from any exporter")
    parser.add_argument("--out", type=output_file, required=True, help="the ONNX to write")
    parser.add_argument("--batch", help="of another exporter's ONNX with a dynamic batch: N, or MIN:OPT:MAX (1)")
    size = "of such an ONNX with images of a dynamic height and width: the side in pixels, or HEIGHTxWIDTH"
    parser.add_argument("--size", type=parse_size, help=size)
    arguments = parser.parse_args()
    if not arguments.onnx.is_file():
        raise UserError(f"no ONNX file '{arguments.onnx}'; `effedge export` makes one, or any other exporter")
    # Imported here, as both are built on this module.
    from effedge.pipeline.export.foreign_model import check_float_onnx, simplify_foreign_stage
    from effedge.pipeline.export.torch_to_onnx import parse_batch

    batch = None if arguments.batch is None else parse_batch(arguments.batch)
    header = fix_header(read_header(arguments.onnx), arguments.onnx, arguments.size)
    check_float_onnx(header, arguments.onnx, batch)
    if header.spec:
        simplify_stage(arguments.onnx, arguments.out)
    else:
        batch = batch or (1, 1, 1)
        simplify_foreign_stage(arguments.onnx, arguments.out, batch=batch, data=None, size=arguments.size)
