"""The description of an engine's CPU blocks, cpu_blocks.npz, which the engine's builder writes and the runtime reads.

It holds `layout`, int32 [blocks, FIELDS]; `weights`, float32, in the order in which block.h reads them; `outputs`, the
names of the operations whose outputs the blocks compute; `expected`, every EXPECTED_STEP-th number of each output for
`sample_image`, by which the blocks are checked where they are loaded.
"""

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError

# The fields of Layout in block.h, which describes them.
FIELDS = (
    "entry", "in_height", "in_width", "in_channels", "entry_top", "entry_left", "height", "width", "channels", "kernel",
    "stride", "top", "left", "out_height", "out_width", "out_channels", "squeezed", "residual", "feature",
)  # fmt: skip
MAY_BE_ZERO = ("entry", "entry_top", "entry_left", "top", "left", "residual", "feature")
FORMAT = 1  # of cpu_blocks.npz
STEM, EXPANSION, NONE = range(3)  # values of the field `entry`
COLORS = 3  # of the image
KERNELS, STRIDES = (3, 5), (1, 2)  # of depthwise convolutions
LEAST_WIDTH = 16  # pixels of a row, which blocks.cpp multiplies together
# No EfficientNet has so many blocks, pixels of a side, pixels, values of a map, or bytes of weights.
MOST_BLOCKS, MAX_SIZE, MAX_PIXELS, MAX_VALUES, MAX_BYTES = 64, 1 << 13, 1 << 23, 1 << 28, 1 << 30
EXPECTED_STEP = 97


class BlocksDescription(NamedTuple):
    """The content of cpu_blocks.npz."""

    layout: np.ndarray
    weights: np.ndarray
    outputs: List[str]
    expected: np.ndarray

    def column(self, field: str) -> np.ndarray:
        """Returns a field of all blocks, int32 [blocks]."""
        return self.layout[:, FIELDS.index(field)]

    @property
    def image_shape(self) -> Tuple[int, int, int]:
        """The shape [H,W,3] of the image."""
        return int(self.column("in_height")[0]), int(self.column("in_width")[0]), COLORS

    @property
    def output_shapes(self) -> Dict[str, Tuple[int, int, int]]:
        """The shape [h,w,channels] of each output, by its operation's name."""
        sizes = np.stack([self.column(f"out_{field}") for field in ("height", "width", "channels")], 1)
        rows = sizes[self.column("feature") == 1].tolist()
        return {name: (row[0], row[1], row[2]) for name, row in zip(self.outputs, rows)}


LONGEST_REASON = 200  # characters
# What NumPy and zipfile raise for damaged files.
DAMAGE = (
    OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, MemoryError,
    RuntimeError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip


def read_description(path: Path) -> BlocksDescription:
    """Reads cpu_blocks.npz. Raises UserError if the file is missing or damaged: what is returned can be computed, as
    `check_description` says."""
    try:
        with zipfile.ZipFile(str(path)) as archive:  # before NumPy reserves the memory
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError("it is too large")
        with np.load(str(path), allow_pickle=False) as file:
            outputs = [str(name) for name in file["outputs"].tolist()]
            description = BlocksDescription(file["layout"], file["weights"], outputs, file["expected"])
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]  # zipfile's may have a part of the file
        raise UserError(f"'{path}' is damaged ({reason}): build the engine again") from error
    check_description(description)
    return description


def sample_image(shape: Tuple[int, int, int]) -> np.ndarray:
    """Returns the image, of squares and noise, on which CPU blocks are checked; the same for every NumPy version."""
    y, x, color = np.ogrid[: shape[0], : shape[1], : shape[2]]
    squares = (y // 40 * 7 + x // 40 * 11 + color * 5) * 31 % 200
    noise = (y * 7919 + x * 104729 + color * 1299709) % 9973 % 55
    return (squares + noise).astype(np.uint8)


def check_description(description: BlocksDescription) -> None:
    """Raises UserError unless the arrays are of the types and lengths that blocks.cpp, which knows no bounds, reads.

    The number of weights is compared by CpuBlocks, with that which blocks.cpp computes from the layout.
    """
    arrays = (description.layout, description.weights, description.expected)
    types = [(array.dtype, array.ndim) for array in arrays]
    if types != [(np.int32, 2), (np.float32, 1), (np.float32, 1)] or not is_supported(description):
        raise UserError("the engine's CPU blocks are damaged: build the engine again")


def is_supported(description: BlocksDescription) -> bool:
    """Checks that blocks.cpp can compute the layout's blocks, and that each block reads the output of the previous."""
    layout = description.layout
    if layout.ndim != 2 or layout.shape[1] != len(FIELDS) or not 1 <= len(layout) <= MOST_BLOCKS:
        return False
    if (layout < 0).any() or (layout > MAX_SIZE).any():
        return False
    field = {name: description.column(name).astype(np.int64) for name in FIELDS}  # whose products do not overflow
    inputs = np.stack([field[f"in_{name}"] for name in ("height", "width", "channels")])
    inner = np.stack([field[name] for name in ("height", "width", "channels")])
    outputs = np.stack([field[f"out_{name}"] for name in ("height", "width", "channels")])
    padding, sizes = np.stack([field["top"], field["left"]]), inner[:2]
    names = description.outputs
    return bool(
        all((field[name] >= 1).all() for name in FIELDS if name not in MAY_BE_ZERO)
        and all((shapes.prod(0) <= MAX_VALUES).all() for shapes in (inputs, inner, outputs))
        and inputs[:2, 0].prod() <= MAX_PIXELS
        and all((field[name] <= 1).all() for name in ("residual", "feature"))
        and field["entry"][0] == STEM
        and np.isin(field["entry"][1:], (EXPANSION, NONE)).all()
        and field["in_channels"][0] == COLORS
        and (inner[:2] == inputs[:2])[:, 1:].all()  # only the stem changes the size
        and (inner[2] == inputs[2])[field["entry"] == NONE].all()
        and (inputs[:, 1:] == outputs[:, :-1]).all()
        and (inputs == outputs)[:, field["residual"] != 0].all()
        and np.isin(field["kernel"], KERNELS).all()
        and np.isin(field["stride"], STRIDES).all()
        and (padding < field["kernel"]).all()
        and ((outputs[:2] - 1) * field["stride"] <= padding + sizes).all()
        and (field["width"] >= LEAST_WIDTH).all()
        and is_stem(field)
        and len(set(names)) == len(names) == field["feature"].sum() > 0
    )


def is_stem(field: Mapping[str, np.ndarray]) -> bool:
    """Checks that the stem, 3x3 with stride 2, computes as many rows and columns as the image and its padding have."""
    for side, padding in (("height", "entry_top"), ("width", "entry_left")):
        start, size = field[padding][0], field[f"in_{side}"][0]
        if start > 2 or 2 * (field[side][0] - 1) > start + size:
            return False
    return True


def sample_outputs(outputs: Dict[str, np.ndarray]) -> np.ndarray:
    """Takes from the outputs [N,h,w,channels] the numbers that `expected` keeps."""
    rows = [array.reshape(-1)[::EXPECTED_STEP] for array in outputs.values()]
    return np.concatenate(rows).astype(np.float32)


def relative_error(values: np.ndarray, expected: np.ndarray) -> float:
    """Computes the root mean square of the values' errors over that of the expected values."""
    return float(np.sqrt(np.mean((values - expected) ** 2) / np.mean(expected**2)))
