"""Draws a result onto the image that it is of, and saves the drawing: what Detections and Classification share."""

import importlib
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file
from effedge.deploy.image.inputs import RGB, ImageLike, read_image

JPEG_QUALITY = 95  # the other formats ignore it


def drawing() -> Any:
    """Imports the module that draws: by its name, as those who evaluate do not draw, so that a change there repeats no
    stage (code_digest.py counts imports)."""
    return importlib.import_module("effedge.deploy.image.draw")


class Drawable:
    """A result that can be drawn onto an image.

    Attributes:
        source: the path that the image was read from; None if the image was in memory.
    """

    source: Optional[Path]

    def drawn_on(self, pixels: np.ndarray) -> np.ndarray:
        """Returns a copy of an image, RGB uint8 [H,W,3], with the result drawn in."""
        raise NotImplementedError

    def draw(self, image: Optional[ImageLike] = None, color: str = RGB) -> Image.Image:
        """Returns the image, as Pillow's, with the result drawn in.

        Args:
            image: the image that was given to the engine; it may be left out if that was a file.
            color: the order of an array's channels: "rgb", or "bgr" as OpenCV has it.

        Raises UserError for an image that cannot be read, or where there is none.
        """
        if image is None:
            image = self.source
        if image is None:
            raise UserError("the image was in memory, and is not kept with its result: give it, as in draw(image)")
        return Image.fromarray(self.drawn_on(read_image(image, color)))

    def save(self, path: Union[str, Path], image: Optional[ImageLike] = None, color: str = RGB) -> None:
        """Writes the image with the result drawn in, in the format of the path's suffix.

        The other arguments are those of `draw`. Raises UserError as `draw` does, for a suffix that Pillow cannot write,
        and where the disk refuses.
        """
        drawn = self.draw(image, color)
        with atomic_file(path) as temporary:
            try:
                drawn.save(str(temporary), quality=JPEG_QUALITY)
            except ValueError as error:  # Pillow's, for an unknown suffix
                raise UserError(f"cannot write an image to '{path}': expected a suffix such as .jpg or .png") from error
