"""Prints a model's stages with their shapes, parameters and FLOPs, as the papers' tables do.

    effedge summary MODEL [--classes N] [--size S or HxW]

The columns stage, operator, input resolution, output channels and layers are those of EfficientNet's table 1 (Tan and
Le 2019); parameters and FLOPs those of its table 2, and of EfficientDet's table 2 (Tan, Pang and Le 2020).
EfficientNetV2's table 4 (Tan and Le 2021) has the stride too, and counts the stages from 0. A FLOP is a multiply-add,
as in the papers, in convolutions and fully connected layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from effedge.deploy.common.cli import Parser
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import (
    EFFICIENTDETS,
    EFFICIENTNETS,
    NECKS,
    SIZE_HELP,
    EfficientNetRow,
    Size,
    input_size,
    is_detector,
    parse_size,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

TITLES = {"fpn": "FPN", "panet": "PANet", "bifpn": "BiFPN"}
HEADER = ("stage", "operator", "stride", "resolution", "channels", "layers", "parameters", "FLOPs")


class Row(NamedTuple):
    """A line of the table.

    resolution: the side of the input, or the sides of the finest and the coarsest level.
    stride: of the first layer, where the model's paper prints it; "-" where a stage has none, "" elsewhere.
    """

    operator: str
    resolution: str
    channels: int
    layers: int
    parameters: int
    flops: int
    stride: str = ""


class Layer(NamedTuple):
    """A convolution or fully connected layer as it ran: side of its input, output channels, and multiply-adds."""

    name: str
    convolution: bool
    resolution: Size
    channels: int
    flops: int


class Part(NamedTuple):
    """The modules that make up a row of the table: those whose names begin with `prefixes`.

    pyramid: they work on all levels.
    stride: as of Row.
    """

    operator: str
    prefixes: tuple[str, ...]
    layers: int
    pyramid: bool = False
    stride: str = ""


def summarize(name: str, classes: int | None = None, size: Size | None = None) -> list[Row]:
    """Computes the rows of a model's table, on the meta device, where a forward pass only computes shapes.

    Raises:
        UserError: an unknown name, or classes or a size that make no model.
    """
    import torch

    from effedge.pipeline.models.create import create_model

    size = input_size(name, size)
    with torch.device("meta"):
        model = create_model(name, classes).eval()
    layers = trace(model, size)
    parameters = {key: value.numel() for key, value in model.named_parameters()}
    rows = []
    for part in parts_of(name):
        inside = [layer for layer in layers if f"{layer.name}.".startswith(part.prefixes)]
        if not inside:  # P6 of a P5 that has the neck's channels already
            continue
        convolutions = [layer for layer in inside if layer.convolution]
        resolution = str(convolutions[0].resolution)
        if part.pyramid:
            sides = [layer.resolution for layer in convolutions]
            resolution = f"{max(sides)}-{min(sides)}"
        count = sum(value for key, value in parameters.items() if key.startswith(part.prefixes))
        flops = sum(layer.flops for layer in inside)
        rows.append(Row(part.operator, resolution, convolutions[-1].channels, part.layers, count, flops, part.stride))
    return rows


def trace(model: nn.Module, size: Size) -> list[Layer]:
    """Lists the convolutions and fully connected layers that an input [1,3,*size] goes through, in order."""
    import torch
    from torch import nn

    layers: list[Layer] = []

    def hook(name: str, module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        # An output value is a sum over the weights of a filter.
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        flops = output.numel() * weight[0].numel()
        layers.append(Layer(name, weight.ndim == 4, Size(*inputs[0].shape[-2:]), weight.shape[0], flops))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *call, name=name: hook(name, *call))
    with torch.inference_mode():
        model(torch.empty(1, 3, *size, device="meta"))
    return layers


def parts_of(name: str) -> list[Part]:
    """Lists the parts of a model, a row of its table for each."""
    if not is_detector(name):
        trunk = trunk_parts(EFFICIENTNETS[name], "")
        head = Part("Conv1x1, pooling, FC", ("conv_head.", "bn2.", "classifier."), 1, stride=trunk[0].stride and "-")
        return [*trunk, head]
    row = EFFICIENTDETS[name]
    neck = NECKS[row.neck]
    return [
        *trunk_parts(EFFICIENTNETS[row.backbone], "backbone."),
        Part(f"P6 from P5: Conv1x1, {'bilinear' if row.bilinear else 'max-pool'}", ("fpn.resample.",), 1),
        Part(f"{TITLES[neck.paths]}, {neck.fusion} fusion", ("fpn.cell.",), row.layers, pyramid=True),
        Part("class head, separable 3x3", ("class_net.",), row.head_layers, pyramid=True),
        Part("box head, separable 3x3", ("box_net.",), row.head_layers, pyramid=True),
    ]


def trunk_parts(row: EfficientNetRow, prefix: str) -> list[Part]:
    """Lists the stem and the stages of blocks of a network whose modules' names begin with `prefix`."""
    from effedge.pipeline.models.efficientnet import Stage, scaled_stages
    from effedge.pipeline.models.mbconv import MBConv

    is_v2 = row.stages != "b0"

    def operator(stage: Stage) -> str:
        name = stage.block.__name__.replace("Fused", "Fused-")
        squeezed = ", SE0.25" if is_v2 and issubclass(stage.block, MBConv) else ""
        return f"{name}, k{stage.kernel}x{stage.kernel}{squeezed}"

    parts = [Part("Conv3x3", (f"{prefix}conv_stem.", f"{prefix}bn1."), 1, stride="2" if is_v2 else "")]
    for index, stage in enumerate(scaled_stages(row)):
        prefixes = (f"{prefix}blocks.{index}.",)
        parts.append(Part(operator(stage), prefixes, stage.layers, stride=str(stage.stride) if is_v2 else ""))
    return parts


def table(rows: Sequence[Row]) -> str:
    """Formats the rows as aligned text, with a line of totals."""
    parameters, flops = sum(row.parameters for row in rows), sum(row.flops for row in rows)
    has_strides = rows[0].stride != ""
    lines: list[tuple[str, ...]] = [HEADER]
    for number, row in enumerate(rows, 0 if has_strides else 1):
        shape = (row.stride, row.resolution, str(row.channels), str(row.layers))
        lines.append((str(number), row.operator, *shape, f"{row.parameters:,}", in_billions(row.flops)))
    lines.append(("", "total", "", "", "", "", f"{parameters:,}", in_billions(flops)))
    if not has_strides:
        lines = [(*line[:2], *line[3:]) for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def in_billions(flops: int) -> str:
    """Formats a number of FLOPs in billions.

    >>> in_billions(386_100_000)
    '0.386 B'
    """
    return f"{flops / 1e9:.3f} B"


def main() -> None:
    parser = Parser(description=__doc__)
    models = (
        "b0 to b8, l2, lite0 to 4, v2-b0 to 3, v2-s, v2-m, v2-l, v2-xl; d0 to d7, d7x, det-lite0 to 4, det-v2-b0, "
        "det-v2-s"
    )
    necks = f"; a detector with another neck has it as a suffix, such as d0-panet: {', '.join(NECKS)}"
    parser.add_argument("model", metavar="MODEL", help=models + necks)
    parser.add_argument("--classes", type=int, help="classes (default: ImageNet's 1000, COCO's 90)")
    parser.add_argument("--size", type=parse_size, help=f"{SIZE_HELP} (default: the model's)")
    args = parser.parse_args()
    check_model(args.model)
    rows = summarize(args.model, args.classes, args.size)
    print(f"{args.model}, input {input_size(args.model, args.size)}")
    print(table(rows))
