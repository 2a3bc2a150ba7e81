"""Simplify an exported ONNX, and prove that it still computes the same.

    effedge simplify build/d0-digits/model.onnx --out build/d0-digits/simplified.onnx

onnx-simplifier folds constants; our passes move pads into convolutions and fold the BatchNorms that share a kernel; the
opset is lowered to what the oldest target reads. Then both graphs run on a real photograph: other outputs, and the
stage fails. `effedge.pipeline.export.foreign_model` does the same for an ONNX that somebody else made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effedge.deploy.common.cli import Parser, UserError
from effedge.engines.stage import run_stage

if TYPE_CHECKING:
    import onnx
    import onnxruntime

# TensorRT 8.2 of JetPack 4.6 reads opset 13, and every later reader does.
OPSET = 13
IR_VERSION = 8
TOOLS = ("onnx", "onnxsim", "onnx-ir", "onnxruntime")
TOLERANCE = 1e-4  # of the output's range


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The simplified graph, with the spec still in its metadata; at OPSET, unless an operator does not exist there.

    Raises:
        UserError: onnx-simplifier refused the graph.
    """
    import onnx
    import onnx_ir as ir
    import onnx_ir.passes.common as common
    import onnxsim

    from effedge.pipeline.export.passes.fold_batch_norm import fold_batch_norm
    from effedge.pipeline.export.passes.fold_scale import fold_scale
    from effedge.pipeline.export.passes.fuse_pad import fuse_pad
    from effedge.pipeline.export.passes.lower_opset import lower_opset, obstacle

    simplified, checked = onnxsim.simplify(model)
    if not checked:
        raise UserError("onnx-simplifier's own check failed; this graph cannot be simplified")
    graph = ir.from_proto(simplified)
    fuse_pad(graph)
    fold_batch_norm(graph)
    fold_scale(graph)
    if obstacle(graph, OPSET) is None:
        lower_opset(graph, OPSET)
        graph.ir_version = IR_VERSION
    common.IdentityEliminationPass()(graph)
    common.RemoveUnusedNodesPass()(graph)
    common.RemoveUnusedOpsetsPass()(graph)
    graph.metadata_props.clear()
    graph.metadata_props.update({entry.key: entry.value for entry in model.metadata_props})
    return onnx.shape_inference.infer_shapes(ir.to_proto(graph))


def photograph(height: int, width: int) -> np.ndarray:
    """A real picture to compare on, uint8 [1,height,width,3]: scikit-learn's photograph of a flower."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image("flower.jpg")).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture)[None]


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime without its own optimizations: what is compared is the graph as it is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_raw_heads(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that also gives what the candidates are selected from: class logits [N,A,C] and box codes [N,A,4].

    Candidates alone would hide much: scores that are all 1 or 0, or another order of equal ones.
    """
    import onnx

    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    heads = [
        node.input[0]
        for node in model.graph.node
        if node.op_type in ("ReduceMax", "GatherElements") and made_by.get(node.input[0]) == "Concat"
    ]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in dict.fromkeys(heads):
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def difference(reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of two runs' outputs, relative to each output's range.

    Candidates of almost equal score may change places, so a detector's are compared as a set: each candidate that is
    clearly above the last score must be there with its class, its score and its box.
    """
    if not all(np.isfinite(array).all() for outputs in (reference, other) for array in outputs.values()):
        return float("inf")
    worst = 0.0
    for name in reference.keys() - {"boxes", "scores", "classes"}:
        apart = np.abs(reference[name] - other[name]).max() / max(np.ptp(reference[name]), 1e-6)
        worst = max(worst, float(apart))
    if "boxes" not in reference:
        return worst
    for boxes, scores, classes, boxes2, scores2, classes2 in zip(
        *(reference[k] for k in ("boxes", "scores", "classes")),
        *(other[k] for k in ("boxes", "scores", "classes")),
        strict=True,
    ):
        score_range, box_range = max(np.ptp(scores), 1e-6), max(np.ptp(boxes), 1e-6)
        worst = max(worst, float(np.abs(scores - scores2).max() / score_range))
        for index in np.flatnonzero(scores > scores[-1] + TOLERANCE * score_range):
            distance = np.maximum(
                np.abs(boxes2 - boxes[index]).max(axis=1) / box_range, np.abs(scores2 - scores[index]) / score_range
            )
            worst = max(worst, float(np.where(classes2 == classes[index], distance, np.inf).min()))
    return worst


def run_outputs(session: onnxruntime.InferenceSession, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name; the raw heads, whose names simplification may change, are named in their order."""
    names = [output.name for output in session.get_outputs()]
    known = ("boxes", "scores", "classes", "logits")
    keys = [name if name in known else f"head {index}" for index, name in enumerate(names)]
    return dict(zip(keys, session.run(names, {"image": images}), strict=True))


def simplify_file(source: Path, out: Path) -> None:
    """Read, simplify, verify, write.

    Raises:
        UserError: not an ONNX file, or the simplified graph computes something else.
    """
    import onnx

    try:
        model = onnx.load(source)
        if not model.graph.node:  # an empty file is a valid protobuf
            raise ValueError("it has no nodes")
    except Exception as error:  # protobuf's DecodeError, whose module depends on its implementation
        raise UserError(f"'{source}' is no whole ONNX file ({error}); export it again") from error
    simplified = simplify(model)
    shape = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.repeat(photograph(shape[1], shape[2]), shape[0], axis=0)
    reference = run_outputs(open_session(with_raw_heads(model)), images)
    apart = difference(reference, run_outputs(open_session(with_raw_heads(simplified)), images))
    if not apart <= TOLERANCE:
        raise UserError(
            f"simplifying '{source}' changed its outputs by {apart:.1e} of their range (at most {TOLERANCE:.0e} is "
            "rounding); please report this model"
        )
    before, after = len(model.graph.node), len(simplified.graph.node)
    print(f"simplify: {before} -> {after} nodes, opset {OPSET}, outputs within {apart:.1e} of their range")
    onnx.save(simplified, out)


def simplify_stage(source: Path, artefact: Path) -> bool:
    """`simplify_file` as a stage; see `effedge.engines.stage.run_stage`."""
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
    parser = Parser(prog="effedge simplify", description=__doc__)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the ONNX to write")
    given = parser.parse_args()
    if not given.onnx.is_file():
        raise UserError(f"no ONNX file '{given.onnx}'; `effedge export` makes one")
    simplify_stage(given.onnx, given.out)
