"""Exports a PyTorch checkpoint to ONNX: a graph from uint8 images to candidates or logits, its spec in the metadata.

    effedge export d0 --weights digits --out build/d0-digits/model.onnx

The exporter is torch's current one (torch.export, not tracing). It always exports for one image; for another `--batch`
the graph's first dimension is rewritten afterwards (`effedge.pipeline.export.passes.set_batch` gives the reason).
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.contracts import SPEC_KEY
from effedge.deploy.common.paths import output_file
from effedge.engines.stage import run_stage
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import MODELS, SIZE_HELP, Size, input_size, parse_size
from effedge.pipeline.weights.locate import config_file, locate_weights, name_of_file

if TYPE_CHECKING:
    import onnx_ir as ir

Batch = tuple[int, int, int]  # (min, opt, max) images in a run

# The exporter's own opset. `effedge.pipeline.export.simplify` lowers it to what the oldest target reads.
EXPORT_OPSET = 18
ANCHORS_HELP = "of a detector, in place of the weights' own: 'base=4 scales=1,1.26 ratios=1x1,2x0.5', or a .yml"
TOOLS = ("torch", "onnx-ir", "onnxscript", "safetensors")
BATCH_PATTERN = re.compile(r"^(\d+)(?::(\d+):(\d+))?$")


class HeadOptions(NamedTuple):
    """The arguments of `export_model` on a checkpoint's heads."""

    classes: int | None = None
    labels: Path | None = None
    anchors: str | None = None


NO_HEAD_OPTIONS = HeadOptions()


def parse_batch(text: str) -> Batch:
    """Parses N or MIN:OPT:MAX to (min, opt, max).

    >>> parse_batch("1:4:8")
    (1, 4, 8)
    """
    match = BATCH_PATTERN.match(text)
    numbers = [int(group) for group in match.groups() if group] if match else []
    low, best, high = numbers * 3 if len(numbers) == 1 else numbers or (0, 0, 0)
    if not 1 <= low <= best <= high:
        raise UserError(f"batch '{text}' cannot be built: expected N, or MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")
    return low, best, high


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hides the exporter's warnings of its internals and of a missing torchvision, which mean nothing to a user."""
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
    size: Size | None = None,
    batch: Batch = (1, 1, 1),
    classes: int | None = None,
    labels: Path | None = None,
    anchors: str | None = None,
) -> ir.Model:
    """Exports a model by name with its weights.

    Args:
        name: a model of `effedge.pipeline.models.tables`.
        weights: `digits`, `random`, a published kind, or a path (`effedge.pipeline.weights.load`).
        size: of the input; by default that of the weights' training.
        batch: (min, opt, max); if they are equal the graph is static, else its batch is "N".
        classes: the number that a checkpoint must have, or of `random` weights.
        labels: a file with a class name a line.
        anchors: of a detector, in place of the weights' (`effedge.pipeline.weights.anchor_spec`).

    Raises:
        UserError: as `effedge.pipeline.weights.load.load_weights`, or a size that does not suit the model.
    """
    import torch
    from onnx_ir.passes import common

    from effedge.pipeline.export.onnx_spec import make_spec, spec_text
    from effedge.pipeline.export.passes.integer_division import divide_integers
    from effedge.pipeline.export.passes.name_layers import name_layers
    from effedge.pipeline.export.passes.set_batch import replace_batch_of_one
    from effedge.pipeline.models.efficientdet import EfficientDet
    from effedge.pipeline.models.engine_graph import ClassifierGraph, DetectorGraph
    from effedge.pipeline.weights.load import load_weights, module_of, size_of_input

    loaded = load_weights(name, weights, classes=classes, labels=labels, anchors=anchors)
    taken = size_of_input(name, loaded, size)
    model = module_of(name, loaded)
    look = loaded.preprocessing
    graph: ClassifierGraph | DetectorGraph
    if isinstance(model, EfficientDet):
        graph = DetectorGraph(model, look.mean, look.std, taken, loaded.anchors)
    else:
        graph = ClassifierGraph(model, look.mean, look.std)
    image = torch.zeros(1, *taken, 3, dtype=torch.uint8)
    with quiet_exporter(), torch.inference_mode(False):
        program = torch.onnx.export(
            graph.eval(),
            (image,),
            dynamo=True,
            opset_version=EXPORT_OPSET,
            input_names=["image"],
            output_names=list(graph.outputs),
            verbose=False,
        )
    assert program is not None
    exported = program.model
    name_layers(exported)
    divide_integers(exported)
    common.RemoveUnusedNodesPass()(exported)
    if batch != (1, 1, 1):
        replace_batch_of_one(exported, batch[0] if len(set(batch)) == 1 else "N")
    word = name_of_file(Path(weights)) if Path(weights).exists() else weights
    exported.metadata_props.clear()
    exported.metadata_props[SPEC_KEY] = spec_text(make_spec(name, word, loaded.labels, taken, batch, look))
    exported.producer_name, exported.producer_version = "effedge", None
    return exported


def export_stage(
    artefact: Path,
    name: str,
    weights: str,
    *,
    size: Size | None = None,
    batch: Batch = (1, 1, 1),
    heads: HeadOptions = NO_HEAD_OPTIONS,
) -> bool:
    """Runs `export_model` as a stage that writes `artefact`; see `effedge.engines.stage.run_stage`."""
    check_model(name)
    input_size(name, size)
    file = locate_weights(name, weights)
    labels, anchors = heads.labels, heads.anchors
    if labels is not None and not labels.is_file():
        raise UserError(f"no labels file '{labels}': expected a text file with a class name a line")
    inputs = {"weights": file, "labels": labels, "config": None if file is None else config_file(file)}
    inputs["anchors"] = Path(anchors) if anchors is not None and Path(anchors).is_file() else None

    def make(temporary: Path) -> None:
        import onnx_ir as ir

        ir.save(export_model(name, weights, size=size, batch=batch, **heads._asdict()), temporary)

    options = {
        "model": name,
        "weights": weights,
        "size": size and str(size),
        "batch": list(batch),
        "classes": heads.classes,
    }
    return run_stage(
        "export",
        artefact,
        inputs={role: path for role, path in inputs.items() if path is not None},
        options=options | ({} if anchors is None else {"anchors": anchors}),
        tools=TOOLS,
        code=[__name__],
        make=make,
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", help=", ".join(MODELS))
    parser.add_argument("--weights", default="digits", help="digits, random, imagenet, coco, ... or a checkpoint")
    parser.add_argument("--size", type=parse_size, help=f"{SIZE_HELP} (default: the weights' own)")
    parser.add_argument("--batch", default="1", help="N, or MIN:OPT:MAX for a dynamic batch")
    parser.add_argument("--classes", type=int, help="number of classes that the checkpoint must have")
    parser.add_argument("--labels", type=Path, help="a text file with a class name a line")
    parser.add_argument("--anchors", help=ANCHORS_HELP)
    parser.add_argument("--out", type=output_file, required=True, help="the ONNX to write")
    parser.add_quiet()
    arguments = parser.parse_args()
    export_stage(
        arguments.out, arguments.model, arguments.weights, size=arguments.size, batch=parse_batch(arguments.batch),
        heads=HeadOptions(arguments.classes, arguments.labels, arguments.anchors),
    )  # fmt: skip
