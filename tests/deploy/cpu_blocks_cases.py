"""CPU blocks with random weights, and their outputs by the textbook's formulas, in float64."""

import numpy as np
import pytest

from effedge.deploy.native.cpu_blocks.blocks import load_cpu_blocks_library
from effedge.deploy.native.cpu_blocks.description import (
    EXPANSION,
    FIELDS,
    NONE,
    STEM,
    BlocksDescription,
    sample_outputs,
)


def library_or_skip():
    """The compiled library of the blocks; skips the test where it cannot be compiled."""
    library = load_cpu_blocks_library()
    if library is None:
        pytest.skip("no C++ compiler")
    return library


def random_description(random, height, width, blocks, means=(120.0, 110.0, 100.0)):
    """Describes blocks with TensorFlow's padding and random weights.

    `blocks`: (entry, channels, kernel, stride, squeezed, out_channels, feature) of each block.
    """
    rows, weights, in_channels = [], [np.array(means)], 3
    for entry, channels, kernel, stride, squeezed, out_channels, feature in blocks:
        row = {"entry": entry, "in_height": height, "in_width": width, "in_channels": in_channels}
        channels = in_channels if entry == NONE else channels
        if entry == STEM:
            (height, row["entry_top"]), (width, row["entry_left"]) = (same(size, 3, 2) for size in (height, width))
        row.update(height=height, width=width, channels=channels, kernel=kernel, stride=stride)
        (height, row["top"]), (width, row["left"]) = (same(size, kernel, stride) for size in (height, width))
        residual = int(entry != STEM and stride == 1 and in_channels == out_channels)
        row.update(out_height=height, out_width=width, out_channels=out_channels, squeezed=squeezed)
        row.update(residual=residual, feature=feature)
        taps = {STEM: 27, EXPANSION: in_channels, NONE: 0}[entry]
        if taps:
            scale = 0.02 if entry == STEM else 1  # an image's values are large
            weights += [scale * random.normal(size=(taps, channels)) / taps**0.5, random.normal(size=channels)]
        weights += [random.normal(size=(kernel**2, channels)) / kernel, random.normal(size=channels)]
        weights += [random.normal(size=(channels, squeezed)), random.normal(size=squeezed)]
        weights += [random.normal(size=(squeezed, channels)), random.normal(size=channels)]
        weights += [random.uniform(0.5, 2, channels)]
        weights += [random.normal(size=(channels, out_channels)) / channels**0.5, random.normal(size=out_channels)]
        rows.append([row.get(field, 0) for field in FIELDS])
        in_channels = out_channels
    flat = np.concatenate([array.reshape(-1) for array in weights]).astype(np.float32)
    layout = np.array(rows, np.int32)
    names = [f"block {index}" for index, row in enumerate(rows) if row[-1]]
    return BlocksDescription(layout, flat, names, np.empty(0, np.float32))


def same(size, kernel, stride):
    """Returns the size of the output of TensorFlow's padding SAME, and the padding before the first value."""
    result = -(-size // stride)
    return result, max(0, (result - 1) * stride + kernel - size) // 2


def reference(description, image):
    """Computes the outputs [h,w,channels] by name, for an image, uint8 [H,W,3]."""
    flat = description.weights.astype(np.float64)

    def take(*shape):
        nonlocal flat
        taken, flat = flat[: int(np.prod(shape))], flat[int(np.prod(shape)) :]
        return taken.reshape(shape)

    value, outputs = image - take(3), []
    for numbers in description.layout:
        row = dict(zip(FIELDS, numbers.tolist()))
        block_input, channels, squeezed = value, row["channels"], row["squeezed"]
        if row["entry"] == STEM:
            weights = take(3, 3, 3, channels)
            near = windows(value, 3, 2, row["entry_top"], row["entry_left"], row["height"], row["width"])
            value = swish(np.einsum("yxabc,abco->yxo", near, weights) + take(channels))
        elif row["entry"] == EXPANSION:
            value = swish(value @ take(row["in_channels"], channels) + take(channels))
        kernel = row["kernel"]
        weights = take(kernel, kernel, channels)
        near = windows(value, kernel, row["stride"], row["top"], row["left"], row["out_height"], row["out_width"])
        value = swish(np.einsum("yxabc,abc->yxc", near, weights) + take(channels))
        reduced = swish(value.mean((0, 1)) @ take(channels, squeezed) + take(squeezed))
        gates = sigmoid(reduced @ take(squeezed, channels) + take(channels)) * take(channels)
        value = (value * gates) @ take(channels, row["out_channels"]) + take(row["out_channels"])
        if row["residual"]:
            value = value + block_input
        if row["feature"]:
            outputs.append(value)
    assert not flat.size
    return dict(zip(description.outputs, outputs))


def windows(value, kernel, stride, top, left, height, width):
    """Returns the windows of a map padded with zeros, [height,width,kernel,kernel,channels]."""
    padded = np.pad(value, ((top, kernel + stride), (left, kernel + stride), (0, 0)))
    rows, columns = padded.strides[:2]  # np.lib.stride_tricks.sliding_window_view is of NumPy 1.20
    shape = (padded.shape[0] - kernel + 1, padded.shape[1] - kernel + 1, kernel, kernel, padded.shape[2])
    near = np.lib.stride_tricks.as_strided(padded, shape, (rows, columns, rows, columns, padded.strides[2]))
    return near[::stride, ::stride][:height, :width]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def swish(x):
    return x * sigmoid(x)


def with_expected(description, image):
    """Returns the description with the reference's outputs for the image as those that are expected."""
    outputs = {name: value[None].astype(np.float32) for name, value in reference(description, image).items()}
    return description._replace(expected=sample_outputs(outputs))
