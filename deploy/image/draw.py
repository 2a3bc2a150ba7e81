"""Draws detections onto their image: boxes with names and scores, in sizes that suit the image."""

import colorsys
from typing import Any, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from effedge.deploy.runtime.detector import Detections

GOLDEN_RATIO = 0.618034
SMALLEST_FONT = 8


def draw_detections(image: np.ndarray, detections: Detections) -> np.ndarray:
    """Returns a copy of `image` (RGB uint8 [H,W,3]) with each box outlined and labelled, the best on top."""
    drawn = Image.fromarray(image)
    canvas = ImageDraw.Draw(drawn)
    font_size = max(11, round(0.022 * (drawn.width + drawn.height) / 2))
    line_width = max(1, round(font_size / 7))
    for index in reversed(range(len(detections))):
        colour = class_colour(int(detections.class_ids[index]))
        label = f"{detections.names[index]} {detections.scores[index]:.2f}"
        x0, y0, x1, y1 = (float(side) for side in detections.boxes[index])
        # Pillow's rectangle includes its far edge, which lies one pixel past the image for a box that ends with it.
        right, bottom = min(x1, drawn.width - 1), min(y1, drawn.height - 1)
        canvas.rectangle((x0, y0, max(x0, right), max(y0, bottom)), outline=colour, width=line_width)
        draw_label(canvas, drawn.size, (x0, y0), label, colour, font_size)
    return np.array(drawn)


def draw_label(
    canvas: ImageDraw.ImageDraw,
    limits: Tuple[int, int],
    corner: Tuple[float, float],
    label: str,
    colour: Tuple[int, int, int],
    font_size: int,
) -> None:
    """Writes `label` on a plate of `colour` above a box's top-left `corner`; moved, and set smaller, as far as it
    takes to stay within `limits` (width, height)."""
    while True:
        font = default_font(font_size)
        left, top, right, bottom = text_box(canvas, label, font)
        margin = font_size // 6
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        if (width <= limits[0] and height <= limits[1]) or font_size <= SMALLEST_FONT:
            break
        font_size = max(SMALLEST_FONT, font_size * 4 // 5)
    x, y = plate_corner(limits, corner, (width, height))
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    canvas.text((x + margin - left, y + margin - top), label, font=font, fill=text_colour(colour))


def default_font(size: int) -> Any:
    """Returns Pillow's own font, which has sizes from Pillow 10.1 on and is small before it."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def text_box(canvas: ImageDraw.ImageDraw, text: str, font: Any) -> Tuple[float, float, float, float]:
    """Returns the box (left, top, right, bottom) that `text` fills, relative to the point that it is written at."""
    if hasattr(font, "getbbox"):
        return canvas.textbbox((0, 0), text, font=font)
    return (0.0, 0.0, *font.getsize(text))  # a bitmap font of Pillow before 9.2


def plate_corner(
    limits: Tuple[int, int], corner: Tuple[float, float], plate: Tuple[float, float]
) -> Tuple[float, float]:
    """Places a plate (width, height) above `corner`, or below it where there is no room above, and within `limits`
    (width, height). Returns its top-left corner."""
    x = max(0, min(corner[0], limits[0] - plate[0]))
    y = corner[1] - plate[1] if corner[1] >= plate[1] else corner[1]
    return x, max(0, min(y, limits[1] - plate[1]))


def class_colour(class_id: int) -> Tuple[int, int, int]:
    """Returns a bright colour for a class, the same in every image.

    Hues a golden ratio apart are far apart for neighbouring classes, and three levels of saturation and brightness tell
    the next nearest ones apart.
    """
    saturation, value = ((0.9, 1.0), (0.65, 0.85), (0.5, 1.0))[class_id // 16 % 3]
    red, green, blue = colorsys.hsv_to_rgb(class_id * GOLDEN_RATIO % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(colour: Tuple[int, int, int]) -> Tuple[int, int, int]:
    """Returns black or white: the one of higher contrast on `colour`, as WCAG 2.1 defines it (sRGB's gamma as 2.2)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in colour)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
