"""Images with two rectangles, which the small detectors of these tests find."""

import io
from typing import Any

import numpy as np
from PIL import Image


def scene(height: int = 120, width: int = 200, red: Any = (20, 40, 60, 100), blue: Any = (100, 10, 180, 50)) -> Any:
    """An image, RGB uint8 [h,w,3], with a red and a blue rectangle on black; they are xyxy, None for none."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel, box in ((0, red), (2, blue)):
        if box is not None:
            image[box[1] : box[3], box[0] : box[2], channel] = 255
    return image


def png(image: Any) -> bytes:
    """An image as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
