"""Holds a validated request: which model is to become which engine, and with what data.

A `Request` that exists can be run as far as that is known without work: its fields were checked against each other and
against the target when it was made. `pipeline/chain.py` runs it.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from effedge.calibration.by_latency import check_runs_here
from effedge.calibration.settings import DEFAULT, Settings
from effedge.deploy.common.cli import UserError, choose
from effedge.engines.build_options import DEFAULT as DEFAULT_BUILD
from effedge.engines.build_options import BuildOptions
from effedge.engines.targets import BY_PAIRS, TYPED, Target, check_buildable_here, check_gpu, check_precision
from effedge.pipeline.evaluation.accuracy_limit import AccuracyLimit
from effedge.pipeline.export.heads.table import ALL_HEADS, HEADS_HELP
from effedge.pipeline.export.torch_to_onnx import ANCHORS_HELP, Batch, parse_batch
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import MODELS, SIZE_HELP, Size, parse_size
from effedge.pipeline.weights.hub.repository import is_repository, model_of_repository

# The stages in their order; a bundle is in place of an engine.
STAGES = ("export", "simplify", "calibrate", "engine", "bundle")
MODELS_SHORT = "b0 to d7x, --help lists them"


@dataclass(frozen=True)
class Checkpoint:
    """A model of effedge's tables with weights.

    Attributes:
        model: a name such as "d0".
        weights: digits, random, a kind of published weights, a repository of the Hugging Face hub, or a path.
        size: of the input; None: the weights' own.
        batch: the smallest, usual and largest number of images in a run.
        classes, labels: what the weights must have, and a text file with a class name a line.
        anchors: of a detector, in place of the weights' own.

    Raises UserError for a model that is unknown.
    """

    model: str
    weights: str = "digits"
    size: Size | None = None
    batch: Batch = (1, 1, 1)
    classes: int | None = None
    labels: Path | None = None
    anchors: str | None = None

    def __post_init__(self) -> None:
        check_model(self.model)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file from any exporter.

    Attributes:
        batch: for a model whose own is dynamic; None: 1.
        head: a detector's or classifier's, by its name in `effedge.pipeline.export.heads.table`; None: any model.
        labels: with a head: a text file with a class name a line; None: the file's own names.
        size: of its inputs of images, where the file's own is dynamic.

    Raises UserError for a head that is unknown, and for labels without one.
    """

    path: Path
    batch: Batch | None = None
    head: str | None = None
    labels: Path | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        if self.head is not None:
            choose("HEAD (--head)", self.head, ALL_HEADS)
        elif self.labels is not None:
            raise UserError(
                f"--labels '{self.labels}' names the classes of a model, and --onnx '{self.path}' has no --head: "
                f"give one of {', '.join(ALL_HEADS)}, or leave LABELS (--labels) out"
            )
        if self.labels is not None and not self.labels.is_file():
            raise UserError(f"no labels file '{self.labels}': expected a text file with a class name a line")


@dataclass(frozen=True)
class Request:
    """A model, the engine that it is to become, and the data for it.

    Attributes:
        source: the model.
        precision, target: of the engine.
        out: the folder under which each model has its own.
        name: of the model's folder; None: by the model, or by its file.
        calibration: a folder of images, a COCO json, or an .npz with an array for each input; None where the model or
            the precision needs none.
        settings: of the quantization.
        accuracy_limit: what INT8 may lose on labelled images; it takes the place of the settings' share of arithmetic
            in 16 bit.
        finetune: steps of quantization-aware fine-tuning on the calibration images, after calibration; 0: none.
        by_latency: leave the layers in 16 bit that are not faster in INT8 on the target.
        until: the last stage to run.
        build_options: of the builder, here or from a bundle on the device.
        selftest_image: what a bundle tests itself on.
        proof_images: the number of images in a bundle for a proof; 0: no proof.

    Raises UserError for what contradicts itself, and for what the target or this machine cannot do.
    """

    source: Checkpoint | OnnxFile
    precision: str
    target: Target
    out: Path
    name: str | None = None
    calibration: Path | None = None
    settings: Settings = DEFAULT
    accuracy_limit: AccuracyLimit | None = None
    finetune: int = 0
    by_latency: bool = False
    until: str = "engine"
    build_options: BuildOptions = DEFAULT_BUILD
    selftest_image: Path | None = None
    proof_images: int = 0

    def __post_init__(self) -> None:
        check_precision(self.precision, self.target)
        choose("stage", self.until, STAGES)
        if self.name is not None and not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise UserError(f"NAME '{self.name}' (--name): expected a folder's name of letters, digits and . _ - +")
        if isinstance(self.source, OnnxFile) and self.until == "export":
            raise UserError(
                f"'{self.source.path}' is exported already: leave --until out, or give one of {', '.join(STAGES[1:])}"
            )
        if self.accuracy_limit is not None and self.precision != "int8":
            raise UserError(f"MAX_DROP (--max-drop) is about INT8, and {self.precision} was asked for: leave it out")
        if self.finetune < 0 or self.finetune and self.precision != "int8":
            raise UserError(f"--finetune {self.finetune} (FINETUNE): expected a number of steps, with PRECISION=int8")
        self.build_options.check(self.target, self.precision)
        if self.until == "engine":  # the stages before it are for the host, whatever the target
            check_buildable_here(self.target)
            check_gpu(self.precision, self.target)
        if self.by_latency:
            if self.precision != "int8":
                raise UserError(
                    f"BY_LATENCY (--by-latency) is of INT8, and {self.precision} was asked for: leave it out, or give "
                    "PRECISION=int8"
                )
            check_runs_here(self.target)

    @property
    def is_quantized(self) -> bool:
        """True for the precisions that need calibration data."""
        return self.precision in BY_PAIRS

    @property
    def reads_data(self) -> bool:
        """True if a stage up to `until` takes ranges from images or arrays."""
        calibrated = self.is_quantized or self.precision == "fp16" and self.target.precision_by == TYPED
        return calibrated and STAGES.index(self.until) >= STAGES.index("calibrate")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command that say which model is meant."""
    parser.add_argument("model", nargs="?", help=", ".join(MODELS))
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="instead of a model: an ONNX file of any exporter")
    parser.add_argument("--head", help=f"of the ONNX file, if it is a detector or classifier: {HEADS_HELP}")
    parser.add_argument("--weights", help="digits (the default), random, imagenet, coco, ... or a checkpoint")
    parser.add_argument("--size", type=parse_size, help=f"{SIZE_HELP} (default: the weights' or the ONNX file's own)")
    parser.add_argument("--batch", help="N, or MIN:OPT:MAX for a dynamic batch (default: 1, or the ONNX file's own)")
    parser.add_argument("--classes", type=int, help="number of classes that the checkpoint must have")
    parser.add_argument("--labels", type=Path, help="a text file with a class name a line")
    parser.add_argument("--anchors", help=ANCHORS_HELP)


def read_source(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Checkpoint | OnnxFile:
    """Read what `add_source` added; ends with one line for a model and an ONNX file, or neither."""
    batch = None if arguments.batch is None else parse_batch(arguments.batch)
    if arguments.model is None and arguments.onnx is None and is_repository(arguments.weights or ""):
        arguments.model = model_of_repository(arguments.weights)
    if (arguments.model is None) == (arguments.onnx is None):
        both = f"'{arguments.model}' and '{arguments.onnx}' were given"
        given = "neither was given" if arguments.onnx is None else both
        parser.error(f"expected either a model ({MODELS_SHORT}) or --onnx FILE, {given}")
    if arguments.onnx is None:
        if arguments.head is not None:
            parser.error(f"--head is for --onnx FILE, and the model {arguments.model} was given: leave it out")
        return Checkpoint(
            arguments.model,
            arguments.weights or "digits",
            size=arguments.size,
            batch=batch or (1, 1, 1),
            classes=arguments.classes,
            labels=arguments.labels,
            anchors=arguments.anchors,
        )
    for option in ("weights", "classes", "anchors"):
        if getattr(arguments, option) is not None:
            parser.error(
                f"--{option} is for the models of effedge, and --onnx '{arguments.onnx}' was given: leave it out"
            )
    return OnnxFile(arguments.onnx, batch, arguments.head, arguments.labels, arguments.size)
