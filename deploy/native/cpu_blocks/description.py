"""The description of an engine's CPU blocks, cpu_blocks.npz, which the engine's builder writes and the runtime reads.

It holds `layout`, int32 [blocks, FIELDS]; `weights`, float32, in the order in which block.h reads them; `outputs`, the
names of the operations whose outputs the blocks compute; `expected`, every EXPECTED_STEP-th number of each output for
`sample_image`, by which the blocks are checked where they are loaded.
"""

import zipfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

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
KERNELS, STRIDES = (3, 5), (1, 2)  # of depthwise convolutions
LEAST_WIDTH = 16  # pixels of a row, which blocks.cpp multiplies together
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
        return int(self.column("in_height")[0]), int(self.column("in_width")[0]), 3

    @property
    def output_shapes(self) -> Dict[str, Tuple[int, int, int]]:
        """The shape [h,w,channels] of each output, by its operation's name."""
        sizes = np.stack([self.column(f"out_{field}") for field in ("height", "width", "channels")], 1)
        rows = sizes[self.column("feature") == 1].tolist()
        return {name: (row[0], row[1], row[2]) for name, row in zip(self.outputs, rows)}


def read_description(path: Path) -> BlocksDescription:
    """Reads cpu_blocks.npz. Raises UserError if the file is missing or damaged."""
    try:
        with np.load(str(path)) as file:
            return BlocksDescription(file["layout"], file["weights"], file["outputs"].tolist(), file["expected"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"'{path}' is damaged ({error}): build the engine again") from error


def sample_image(shape: Tuple[int, int, int]) -> np.ndarray:
    """Returns the image, of squares and noise, on which CPU blocks are checked; the same for every NumPy version."""
    y, x, color = np.ogrid[: shape[0], : shape[1], : shape[2]]
    squares = (y // 40 * 7 + x // 40 * 11 + color * 5) * 31 % 200
    noise = (y * 7919 + x * 104729 + color * 1299709) % 9973 % 55
    return (squares + noise).astype(np.uint8)


def is_supported(description: BlocksDescription) -> bool:
    """Checks that blocks.cpp can compute the layout's blocks, and that each block reads the output of the previous."""
    layout = description.layout
    if layout.ndim != 2 or layout.shape[1] != len(FIELDS) or not len(layout) or (layout < 0).any():
        return False
    field = {name: description.column(name) for name in FIELDS}
    inputs = np.stack([field[f"in_{name}"] for name in ("height", "width", "channels")])
    outputs = np.stack([field[f"out_{name}"] for name in ("height", "width", "channels")])
    padding, sizes = np.stack([field["top"], field["left"]]), np.stack([field["height"], field["width"]])
    return bool(
        all((field[name] >= 1).all() for name in FIELDS if name not in MAY_BE_ZERO)
        and field["entry"][0] == STEM
        and np.isin(field["entry"][1:], (EXPANSION, NONE)).all()
        and (inputs[:, 1:] == outputs[:, :-1]).all()
        and (inputs == outputs)[:, field["residual"] != 0].all()
        and np.isin(field["kernel"], KERNELS).all()
        and np.isin(field["stride"], STRIDES).all()
        and (padding < field["kernel"]).all()
        and ((outputs[:2] - 1) * field["stride"] <= padding + sizes).all()
        and (field["width"] >= LEAST_WIDTH).all()
        and max(field["entry_top"][0], field["entry_left"][0]) <= 2
        and len(description.outputs) == field["feature"].sum() > 0
    )


def sample_outputs(outputs: Dict[str, np.ndarray]) -> np.ndarray:
    """Takes from the outputs [N,h,w,channels] the numbers that `expected` keeps."""
    rows = [array.reshape(-1)[::EXPECTED_STEP] for array in outputs.values()]
    return np.concatenate(rows).astype(np.float32)


def relative_error(values: np.ndarray, expected: np.ndarray) -> float:
    """Computes the root mean square of the values' errors over that of the expected values."""
    return float(np.sqrt(np.mean((values - expected) ** 2) / np.mean(expected**2)))
