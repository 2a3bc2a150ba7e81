"""Converts what programs hold an image in - a file, its bytes, Pillow's image, a NumPy array, a PyTorch tensor - to the
networks' RGB, uint8 [H,W,3].

A file, and its bytes, become upright RGB as `effedge.deploy.image.files` says. What is in memory keeps its pixels as
they are, so that boxes are in them: EXIF orientation is not applied to Pillow's image (PIL.ImageOps.exif_transpose does
that). Alpha is composited over white wherever it comes from.

PyTorch is never imported: a tensor is known by its methods.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.image.files import explained_errors, open_head, open_image, to_rgb

if TYPE_CHECKING:
    from typing import Protocol

    class Tensor(Protocol):
        """A PyTorch tensor, as far as it is used here."""

        def detach(self) -> Any:
            """Returns the tensor without its gradient."""

        def is_floating_point(self) -> bool:
            """Tells if the elements are floating-point numbers."""


# A file, its bytes, or an image in memory.
ImageLike = Union[str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray, "Tensor"]
RGB, BGR = COLORS = ("rgb", "bgr")  # the order of an array's or a tensor's channels
CHANNELS = (1, 3, 4)
ARRAY, TENSOR = "uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4]", "[H,W], [1,H,W], [3,H,W] or [4,H,W]"


def read_image(image: ImageLike, color: str = RGB) -> np.ndarray:
    """Returns an image as RGB, uint8 [H,W,3]; an array that is that already is returned itself.

    Args:
        image: a path; the bytes of an image's file; Pillow's image; an array, uint8, grey [H,W] or [H,W,1], RGB
            [H,W,3] or RGBA [H,W,4]; or a PyTorch tensor of the same channels, but first ([3,H,W]), uint8 or
            floating-point from 0 to 1.
        color: the order of an array's or a tensor's channels: "rgb", or "bgr" as OpenCV has it.

    Raises UserError for a file that cannot be read, and for anything else than these.

    >>> read_image(np.full((2, 3), 7, np.uint8)).shape
    (2, 3, 3)
    """
    if color not in COLORS:
        choose("color", str(color), COLORS)
    if isinstance(image, np.ndarray):
        return array_to_rgb(image, color)
    if isinstance(image, (str, os.PathLike)):
        return open_image(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        with explained_errors(f"in the {len(image)} bytes"), open_head(io.BytesIO(image)) as opened:
            return to_rgb(opened)
    if isinstance(image, Image.Image):
        with explained_errors(f"given ({image.mode}, {image.width} x {image.height})"):
            return to_rgb(image, upright=False)
    if hasattr(image, "detach") and hasattr(image, "is_floating_point"):
        return array_to_rgb(tensor_to_array(image), color)
    hint = " (cv2.imread returns it for a file that it cannot read)" if image is None else ""
    raise UserError(
        f"an image of {type(image).__name__} was given{hint}, expected a path, bytes, an image of Pillow, "
        "a NumPy array or a PyTorch tensor"
    )


def array_to_rgb(array: np.ndarray, color: str) -> np.ndarray:
    """Converts an array as `read_image` takes it. Raises UserError for another dtype or shape."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in CHANNELS:
        hint = ""
        if array.ndim == 4:
            hint = "; for several images give a list of them: list(images)"
        elif array.ndim == 3 and array.shape[0] in CHANNELS and channels not in CHANNELS:
            hint = "; put the channels last: image.transpose(1, 2, 0)"
        elif array.dtype != np.uint8:
            hint = "; scale it to 0..255, round it, and convert it by .astype(np.uint8)"
        raise UserError(f"an array of {array.dtype} {list(array.shape)} was given, expected {ARRAY}{hint}")
    if array.size == 0:
        raise UserError(f"an image without pixels was given: {list(array.shape)}")
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if color == BGR:
        swapped = np.empty(array.shape, np.uint8)  # channel by channel: four times as fast as array[..., ::-1].copy()
        for source, target in zip((2, 1, 0, 3), range(channels)):
            swapped[..., target] = array[..., source]
        array = swapped
    return array if channels == 3 else to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def tensor_to_array(tensor: "Tensor") -> np.ndarray:
    """Converts a PyTorch tensor, of any device, as `read_image` takes it to an array of the same channels, last.

    Raises UserError for another dtype or shape, and for floating-point numbers outside 0 to 1: a tensor that was
    normalized already is no image any more.
    """
    numbers = tensor.detach()
    shape, kind = list(numbers.shape), str(numbers.dtype)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in CHANNELS) or 0 in shape:
        hint = ""
        if len(shape) == 4:
            hint = "; for several images give a list of them: list(images)"
        elif len(shape) == 3 and shape[2] in CHANNELS:
            hint = "; put the channels first: image.permute(2, 0, 1)"
        raise UserError(f"a tensor of {kind} {shape} was given, expected {TENSOR}{hint}")
    if numbers.is_floating_point():
        array = numbers.float().cpu().numpy()  # NumPy has no bfloat16
        least, greatest = float(array.min()), float(array.max())
        if not (least >= 0 and greatest <= 1):
            raise UserError(
                f"a tensor of {kind} from {least:.3g} to {greatest:.3g} was given, expected 0 to 1 "
                "(before the normalization by mean and deviation), or uint8"
            )
        array = np.round(255 * array).astype(np.uint8)
    else:
        array = numbers.cpu().numpy()
    return array if array.ndim == 2 else np.ascontiguousarray(array.transpose(1, 2, 0))
