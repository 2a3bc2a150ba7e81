"""Simplify an ONNX that somebody else made, and prove that it still computes the same.

The same simplification as of our own (`effedge.pipeline.export.simplify`), around which nothing is known of the model but its inputs:
its batch is fixed or bounded, and both graphs run on the calibration data, or on random numbers where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effedge.calibration.ranges.samples import Input, array_samples
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import BATCH_KEY, DTYPES, Header, onnx_files
from effedge.engines.stage import run_stage
from effedge.pipeline.export.simplify import OPSET, TOLERANCE, TOOLS, open_session, simplify
from effedge.pipeline.export.torch_to_onnx import Batch

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

SEED = 0
# An argmax tips where two values are equal but for rounding.
INTEGERS_THAT_MAY_DIFFER = 0.01


def check_inputs(header: Header, path: Path, batch: Batch | None) -> None:
    """UserError unless the inputs are tensors of numbers with fixed sizes but for the batch, which `batch` suits."""
    if not header.inputs:
        raise UserError(f"'{path}' has no inputs, so there is nothing to run: export the model again")
    dynamic = False
    for name, (element, dims) in header.inputs.items():
        if DTYPES.get(element, "string") in ("string", "bfloat16") or dims is None:
            what = f"{DTYPES.get(element, f'ONNX type {element}')} of {'unknown rank' if dims is None else dims}"
            raise UserError(f"input '{name}' of '{path}' is {what}: expected a tensor of numbers with a shape")
        if any(isinstance(size, str) for size in dims[1:]):
            shape = [size or "?" for size in dims]
            raise UserError(
                f"input '{name}' of '{path}' has shape {shape}, of which only the first may be dynamic: export it with "
                "fixed sizes (or: python -m onnxruntime.tools.make_dynamic_shape_fixed)"
            )
        dynamic = dynamic or bool(dims) and isinstance(dims[0], str)
        if batch and dims and not isinstance(dims[0], str) and batch != (dims[0],) * 3:
            raise UserError(
                f"input '{name}' of '{path}' has a fixed batch of {dims[0]}: leave BATCH (--batch) out, or export the "
                "model with a dynamic one"
            )


def set_batch(model: ir.Model, batch: Batch) -> None:
    """Fix the dynamic batch of the inputs, or note its bounds in the metadata; in place. Shapes are inferred anew."""
    import onnx_ir as ir

    lowest, _, highest = batch
    names = {value.shape[0] for value in model.graph.inputs if value.shape and not isinstance(value.shape[0], int)}
    if not names:
        return
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None:
            new = lowest if lowest == highest else "N"
            value.shape = ir.Shape([new if size in names else size for size in value.shape])
    if lowest != highest:
        model.metadata_props[BATCH_KEY] = json.dumps(list(batch))


def random_feeds(inputs: list[Input], batch: int) -> dict[str, np.ndarray]:
    """One run's inputs, seeded: normal for floats, 0 to 255 for bytes, 0 and 1 for other integers, which may be
    indices."""
    random = np.random.default_rng(SEED)
    feeds = {}
    for given in inputs:
        shape = [batch if size is None else size for size in given.shape]
        most = 256 if given.dtype == np.uint8 else 2
        array: Any = random.standard_normal(shape) if given.dtype.kind == "f" else random.integers(0, most, shape)
        feeds[given.name] = array.astype(given.dtype)
    return feeds


def name_missing_shapes(model: onnx.ModelProto, outputs: Mapping[str, np.ndarray]) -> None:
    """Give each output that says nothing of its shape, which onnx-simplifier refuses, as many unknown dimensions as a
    run found; in place."""
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            tensor.shape.SetInParent()
            for index in range(np.ndim(outputs[value.name])):
                tensor.shape.dim.add().dim_param = f"{value.name}_{index}"


def run_proto(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs by name."""
    try:
        session = open_session(model)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise UserError(f"ONNX Runtime cannot run '{path}': {error}") from error


def outputs_apart(reference: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of two runs, relative to each output's largest magnitude; infinite where they differ in
    more than rounding: in shape, in where they are NaN or infinite, or in more than 1% of an output's integers."""
    worst = 0.0
    for name, wanted in reference.items():
        got = other[name]
        if not isinstance(wanted, np.ndarray) or wanted.shape != got.shape or wanted.dtype != got.dtype:
            return np.inf
        if wanted.dtype.kind != "f":
            if np.mean(wanted != got) > INTEGERS_THAT_MAY_DIFFER:
                return np.inf
            continue
        finite = np.isfinite(wanted)
        if not np.array_equal(wanted[~finite], got[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
            return np.inf
        if finite.any():
            distance = np.abs(wanted[finite].astype(np.float64) - got[finite]).max()
            worst = max(worst, float(distance / max(np.abs(wanted[finite]).max(), 1e-6)))
    return worst


def simplify_any_file(source: Path, out: Path, batch: Batch, data: Path | None) -> None:
    """Read, simplify, verify, write. `data`: the calibration arrays, one run of which both graphs run on.

    Raises:
        UserError: not an ONNX file, a simplifier or ONNX Runtime that refuses it, or another output than before.
    """
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common

    from effedge.calibration.graph import onnx_file
    from effedge.calibration.ranges.source import model_inputs

    model = onnx_file.read(source)
    if model.functions:
        model = common.InlinePass()(model).model
    common.RemoveInitializersFromInputsPass()(model)
    onnx_file.check_float(model, source)
    set_batch(model, batch)
    before = ir.to_proto(model)
    inputs = model_inputs(model)
    feeds = array_samples(data, inputs, 1).load(0) if data is not None else random_feeds(inputs, batch[1])
    reference = run_proto(before, feeds, source)
    name_missing_shapes(before, reference)
    try:
        after = simplify(before)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"onnx-simplifier refuses '{source}': {error}") from error
    apart = outputs_apart(reference, run_proto(after, feeds, source))
    if not apart <= TOLERANCE:
        raise UserError(
            f"simplifying '{source}' changed its outputs by {apart:.1e} of their range (at most {TOLERANCE:.0e} is "
            "rounding); please report this model"
        )
    opset = next((entry.version for entry in after.opset_import if entry.domain in ("", "ai.onnx")), 0)
    on = "random numbers" if data is None else f"'{data}'"
    count = f"{len(before.graph.node)} -> {len(after.graph.node)}"
    print(f"simplify: {count} nodes, opset {opset}, outputs on {on} within {apart:.1e} of their range")
    onnx_file.save(ir.from_proto(after), out)


def simplify_any_stage(source: Path, artefact: Path, *, batch: Batch, data: Path | None) -> bool:
    """`simplify_any_file` as a stage, which also sees a change of the files that hold weights beside the ONNX."""
    return run_stage(
        "simplify",
        artefact,
        inputs={**onnx_files(source), **({} if data is None else {"calibration": data})},
        options={"opset": OPSET, "tolerance": TOLERANCE, "batch": batch},
        tools=(*TOOLS, "numpy"),
        code=[__name__],
        make=lambda temporary: simplify_any_file(source, temporary, batch, data),
    )
