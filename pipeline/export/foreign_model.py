"""Simplifies an ONNX from any other exporter, and verifies that it still computes the same.

The simplification is that of effedge's own exports (`effedge.pipeline.export.simplify`). But only the inputs of the
model are known, so its batch is fixed or bounded, and the graphs before and after run on the calibration data, or on
random numbers if there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effedge.calibration.ranges.samples import Input, array_samples
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.engines.onnx_header import DTYPES, PAIRS, Header, onnx_files
from effedge.engines.stage import run_stage
from effedge.pipeline.export.compare_outputs import TOLERANCE, difference_by_magnitude, run_outputs
from effedge.pipeline.export.simplify import OPSET, TOOLS, Trial, simplify_verified

if TYPE_CHECKING:
    import onnx_ir as ir

    from effedge.pipeline.export.torch_to_onnx import Batch
    from effedge.pipeline.models.tables import Size

SEED = 0
FLOAT16_TOLERANCE = 0.05  # what a deep network's rounding to float16 comes to


def check_float_onnx(header: Header, path: Path, batch: Batch | None) -> None:
    """Checks that an ONNX file is a float model whose inputs suit the batch.

    Raises:
        UserError: it is not.
    """
    quantized = next((node for node in header.nodes if node.op in PAIRS), None)
    if quantized is not None:
        raise UserError(f"'{path}' is already quantized ({quantized.op} '{quantized.name}'): give the float model")
    check_inputs(header, path, batch)
    if header.spec and batch:
        raise UserError(f"'{path}' has its batch, {header.batch}, from its export: leave BATCH (--batch) out")


def check_inputs(header: Header, path: Path, batch: Batch | None) -> None:
    """Checks that the inputs are tensors of numbers, fixed in size but for the batch, which `batch` suits.

    Raises:
        UserError: they are not.
    """
    if not header.inputs:
        raise UserError(f"'{path}' has no inputs, so there is nothing to run: export the model again")
    for name, (element, dims) in header.inputs.items():
        if DTYPES.get(element, "string") in ("string", "bfloat16") or dims is None:
            kind = f"{DTYPES.get(element, f'ONNX type {element}')} of {'unknown rank' if dims is None else dims}"
            raise UserError(f"input '{name}' of '{path}' is {kind}: expected a tensor of numbers with a shape")
        if any(isinstance(size, str) for size in dims[1:]):
            shape = [size or "?" for size in dims]
            raise UserError(
                f"input '{name}' of '{path}' has shape {shape}, of which only the first may be dynamic: export it with "
                "fixed sizes (or: python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name "
                f"{name} --input_shape SIZES {path} FIXED.onnx)"
            )
    first = {dims[0]: name for name, (_, dims) in header.inputs.items() if dims}
    if batch and not any(isinstance(size, str) for size in first) and any(batch != (size,) * 3 for size in first):
        size, name = next(iter(first.items()))
        raise UserError(
            f"input '{name}' of '{path}' has a fixed batch of {size}: leave BATCH (--batch) out, or export the model "
            "with a dynamic one"
        )


def random_feeds(inputs: list[Input], batch: int) -> dict[str, np.ndarray]:
    """Draws the inputs of a run, seeded: floats from a normal distribution, bytes from 0 to 255.

    Other integers are 0 or 1, because they may be indices.
    """
    random = np.random.default_rng(SEED)
    feeds: dict[str, np.ndarray] = {}
    for model_input in inputs:
        shape = [batch if size is None else size for size in model_input.shape]
        end = 256 if model_input.dtype == np.uint8 else 2
        is_float = model_input.dtype.kind == "f"
        array = np.asarray(random.standard_normal(shape) if is_float else random.integers(0, end, shape))
        feeds[model_input.name] = array.astype(model_input.dtype)
    return feeds


def simplify_foreign_file(source: Path, out: Path, batch: Batch, data: Path | None, size: Size | None = None) -> None:
    """Simplifies an ONNX from any exporter, and verifies it; arguments and errors as `read_foreign`.

    Raises:
        UserError: as `simplify_verified`.
    """
    model, trial = read_foreign(source, batch, data, size)
    simplify_verified(model, source, out, trial)


def read_foreign(source: Path, batch: Batch, data: Path | None, size: Size | None = None) -> tuple[ir.Model, Trial]:
    """Reads an ONNX from any exporter, at an opset and of a type that the later stages read; returns it with the trial
    that it is verified by.

    Args:
        batch: (min, opt, max) of a model whose own batch is a symbol.
        data: calibration arrays for the verification; None: random numbers.
        size: of inputs of images whose height and width are symbols.

    Raises:
        UserError: `source` is no float ONNX file, or as `fix_size` and `modernize`.
    """
    from effedge.calibration.graph import onnx_file
    from effedge.calibration.graph.standard_operators import inline_functions
    from effedge.calibration.ranges.source import model_inputs
    from effedge.pipeline.export.input_size import fix_size
    from effedge.pipeline.export.passes.graph_ends import remove_repeated_outputs
    from effedge.pipeline.export.passes.set_batch import resolve_symbolic_batch

    model = onnx_file.read_own_opset(source)
    if model.functions:
        model = inline_functions(model)
    onnx_file.check_float(model, source)
    remove_repeated_outputs(model.graph)
    fix_size(model, source, size)
    resolve_symbolic_batch(model, batch)
    inputs = model_inputs(model)
    check_batches(model, source, inputs, batch)
    feeds = random_feeds(inputs, batch[1])
    if data is not None:
        read = {value.name for value in model.graph.inputs if value.uses() or value.is_graph_output()}
        feeds.update(array_samples(data, [each for each in inputs if each.name in read], 1).load(0))
    trial = Trial(feeds, difference_by_magnitude, data="random numbers" if data is None else f"'{data}'")
    return modernize(model, source, trial), trial


def check_batches(model: ir.Model, source: Path, inputs: list[Input], batch: Batch) -> None:
    """Raises UserError for a batch that the model cannot run, as one whose Reshape has a fixed batch; the usual one,
    `batch[1]`, the trial runs."""
    import onnx_ir as ir

    if all(None not in each.shape for each in inputs):
        return
    for size in sorted({batch[0], batch[2]} - {batch[1]}):
        try:
            run_outputs(ir.to_proto(model), random_feeds(inputs, size), source)
        except UserError as error:
            raise UserError(f"a batch of {size}, of BATCH (--batch) {':'.join(map(str, batch))}: {error}") from error


def modernize(model: ir.Model, source: Path, trial: Trial) -> ir.Model:
    """Brings a model to an opset and a type that the later stages read, and verifies that by a trial.

    Raises:
        UserError: the opset cannot be converted, ONNX Runtime cannot run the model, or its outputs changed.
    """
    import onnx_ir as ir

    from effedge.calibration.graph.raise_opset import raise_opset
    from effedge.pipeline.export.passes.float16_to_float32 import float16_to_float32

    original = ir.to_proto(model)
    reference = trial.run(original, source)
    lists = [name for name, value in reference.items() if not isinstance(value, np.ndarray)]
    if lists:
        raise UserError(f"output '{lists[0]}' of '{source}' is no tensor: export the model so that it returns tensors")
    before, model = model.opset_imports.get(""), raise_opset(model, source, verified=True)
    after = model.opset_imports.get("")
    halves = float16_to_float32(model)
    changes = [f"opset {before} -> {after}"] if before != after else []
    changes += ["float16 -> float32 inside"] if halves else []
    if not changes:
        return model
    apart = trial.difference(reference, trial.run(ir.to_proto(model), source))
    least = FLOAT16_TOLERANCE if halves else TOLERANCE
    tolerance = trial.tolerance(apart, least, original, reference, source)
    if not apart <= tolerance:
        raise UserError(
            f"bringing '{source}' up to date ({', '.join(changes)}) changed its outputs by {apart:.1e} of their range "
            f"(at most {tolerance:.0e} is rounding): export it again, in float32 and at opset {OPSET} or later"
        )
    log.info(f"simplify: {', '.join(changes)}, outputs within {apart:.1e} of their range")
    return model


def simplify_foreign_stage(
    source: Path, artefact: Path, *, batch: Batch, data: Path | None, size: Size | None = None
) -> bool:
    """Runs `simplify_foreign_file` as a stage, whose inputs include the files with weights beside the ONNX."""
    return run_stage(
        "simplify",
        artefact,
        inputs={**onnx_files(source), **({} if data is None else {"calibration": data})},
        options={"opset": OPSET, "tolerance": TOLERANCE, "batch": batch, "size": size},
        tools=(*TOOLS, "numpy"),
        code=[__name__],
        make=lambda temporary: simplify_foreign_file(source, temporary, batch, data, size),
    )
