"""PyTorch -> ONNX: one static graph from uint8 pictures to candidates or logits, with the spec in its metadata.

    effedge export d0 --weights digits --out build/d0-digits/model.onnx

By torch's current exporter (torch.export, not tracing). The graph is always exported for one picture; `--batch` then
rewrites its first dimension (`effedge.pipeline.export.passes.set_batch` says why).
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.engines.stage import run_stage
from effedge.pipeline.models.zoo import MODELS, input_size
from effedge.pipeline.weights.locate import locate_weights

if TYPE_CHECKING:
    import onnx_ir as ir

Batch = tuple[int, int, int]

# The exporter's own opset. `effedge.pipeline.export.simplify` lowers it to what the oldest target reads.
EXPORT_OPSET = 18
TOOLS = ("torch", "onnx-ir", "onnxscript", "safetensors")
BATCH_PATTERN = re.compile(r"^(\d+)(?::(\d+):(\d+))?$")


def parse_batch(text: str) -> Batch:
    """(min, opt, max) from N or MIN:OPT:MAX.

    >>> parse_batch("1:4:8")
    (1, 4, 8)
    """
    found = BATCH_PATTERN.match(text)
    numbers = [int(group) for group in found.groups() if group] if found else []
    low, best, high = numbers * 3 if len(numbers) == 1 else numbers or (0, 0, 0)
    if not 1 <= low <= best <= high:
        raise UserError(f"batch '{text}' cannot be built: expected N, or MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")
    return low, best, high


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """torch's exporter warns of its own internals and of a missing torchvision, which means nothing to our user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def export_model(
    name: str,
    weights: str,
    *,
    size: int | None = None,
    batch: Batch = (1, 1, 1),
    classes: int | None = None,
    labels: Path | None = None,
    quiet: bool = False,
) -> ir.Model:
    """Export a model by name with its weights.

    Args:
        name: a model of `effedge.pipeline.models.zoo`.
        weights: `digits`, `random`, a published kind, or a path (`effedge.pipeline.weights.load`).
        size: side of the square input in pixels; by default the one that the weights were trained for.
        batch: (min, opt, max); where all three are one number the graph is static, else its batch is "N".
        classes: what a checkpoint must have, or the number for `random`.
        labels: a file with a class name a line.

    Raises:
        UserError: as `effedge.pipeline.weights.load.load_weights`, or a size that does not suit the model.
    """
    import torch

    from effedge.pipeline.export.onnx_spec import METADATA_KEY, make_spec, spec_text
    from effedge.pipeline.export.passes.set_batch import set_batch
    from effedge.pipeline.models.efficientdet import EfficientDet
    from effedge.pipeline.models.engine_graph import ClassifierGraph, DetectorGraph
    from effedge.pipeline.models.zoo import create_model
    from effedge.pipeline.weights.load import load_weights

    loaded = load_weights(name, weights, classes=classes, labels=labels, quiet=quiet)
    side = input_size(name, size or loaded.size)
    model = create_model(name, loaded.classes)
    model.load_state_dict(loaded.state)
    look = loaded.preprocessing
    graph: ClassifierGraph | DetectorGraph
    if isinstance(model, EfficientDet):
        graph = DetectorGraph(model, look.mean, look.std, side)
    else:
        graph = ClassifierGraph(model, look.mean, look.std)
    picture = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    with quiet_exporter(), torch.inference_mode(False):
        program = torch.onnx.export(
            graph.eval(),
            (picture,),
            dynamo=True,
            opset_version=EXPORT_OPSET,
            input_names=["image"],
            output_names=list(graph.outputs),
            verbose=False,
        )
    assert program is not None
    exported = program.model
    if batch != (1, 1, 1):
        set_batch(exported, batch[0] if len(set(batch)) == 1 else "N")
    kind = Path(weights).stem if loaded.file is not None and weights == str(loaded.file) else weights
    exported.metadata_props.clear()
    exported.metadata_props[METADATA_KEY] = spec_text(make_spec(name, kind, loaded.labels, side, batch, look))
    exported.producer_name, exported.producer_version = "effedge", None
    return exported


def export_stage(
    artefact: Path,
    name: str,
    weights: str,
    *,
    size: int | None = None,
    batch: Batch = (1, 1, 1),
    classes: int | None = None,
    labels: Path | None = None,
    quiet: bool = False,
) -> bool:
    """`export_model` as a stage that writes `artefact`; see `effedge.engines.stage.run_stage`."""
    choose("model", name, MODELS)
    input_size(name, size)
    file = locate_weights(name, weights, quiet=quiet)
    if labels is not None and not labels.is_file():
        raise UserError(f"no labels file '{labels}': expected a text file with a class name a line")

    def make(temporary: Path) -> None:
        import onnx_ir as ir

        exported = export_model(name, weights, size=size, batch=batch, classes=classes, labels=labels, quiet=quiet)
        ir.save(exported, temporary)

    return run_stage(
        "export",
        artefact,
        inputs={role: path for role, path in (("weights", file), ("labels", labels)) if path is not None},
        options={
            "model": name, "weights": weights, "size": size, "batch": list(batch), "classes": classes,
        },
        tools=TOOLS,
        code=[__name__],
        make=make,
    )  # fmt: skip


def main() -> None:
    parser = Parser(prog="effedge export", description=__doc__)
    parser.add_argument("model", help=", ".join(MODELS))
    parser.add_argument("--weights", default="digits", help="digits, random, imagenet, coco, ... or a checkpoint")
    parser.add_argument("--size", type=int, help="side of the input in pixels (default: the weights' own)")
    parser.add_argument("--batch", default="1", help="N, or MIN:OPT:MAX for a dynamic batch")
    parser.add_argument("--classes", type=int, help="number of classes that the checkpoint must have")
    parser.add_argument("--labels", type=Path, help="a text file with a class name a line")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX to write")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    export_stage(
        given.out, given.model, given.weights, size=given.size, batch=parse_batch(given.batch),
        classes=given.classes, labels=given.labels, quiet=given.quiet,
    )  # fmt: skip
