"""Draws results onto their image, in sizes that suit it: boxes with labels and scores, or the best classes."""

import colorsys
from typing import TYPE_CHECKING, Any, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from effedge.deploy.image.classification import Classification
    from effedge.deploy.image.detections import Detections

GOLDEN_RATIO = 0.618034
SMALLEST_FONT = 8


def draw_detections(image: np.ndarray, detections: "Detections") -> np.ndarray:
    """Returns a copy of `image` (RGB uint8 [H,W,3]) with each box outlined and labelled, the best on top."""
    drawn = Image.fromarray(image)
    canvas = ImageDraw.Draw(drawn)
    font_size = usual_font_size(drawn)
    line_width = max(1, round(font_size / 7))
    for (x0, y0, x1, y1), score, class_id, label in reversed(list(detections)):
        colour = class_colour(class_id)
        # Pillow's rectangle includes its far edge, which lies one pixel past the image for a box that ends with it.
        right, bottom = min(x1, drawn.width - 1), min(y1, drawn.height - 1)
        canvas.rectangle((x0, y0, max(x0, right), max(y0, bottom)), outline=colour, width=line_width)
        draw_label(canvas, drawn.size, (x0, y0), f"{label} {score:.2f}", colour, font_size)
    return np.array(drawn)


def draw_classes(image: np.ndarray, classification: "Classification") -> np.ndarray:
    """Returns a copy of `image` (RGB uint8 [H,W,3]) with the classes and their scores in the top-left corner, the best
    at the top, as many as there is room for."""
    drawn = Image.fromarray(image)
    canvas = ImageDraw.Draw(drawn)
    font_size, top = usual_font_size(drawn), 0.0
    for class_id, label, score in classification:
        limits = (drawn.width, max(drawn.height - round(top), 0))
        _, _, plate = fitted_text(canvas, limits, f"{label} {score:.2f}", font_size)
        if top and plate[1] > limits[1]:
            break
        # A plate stands on its corner: the corner of the next is the bottom of this one.
        corner = (0.0, top + plate[1])
        draw_label(canvas, drawn.size, corner, f"{label} {score:.2f}", class_colour(class_id), font_size)
        top += plate[1]
    return np.array(drawn)


def usual_font_size(image: Image.Image) -> int:
    """Computes the size of letters that suits an image."""
    return max(11, round(0.022 * (image.width + image.height) / 2))


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
    font, inset, plate = fitted_text(canvas, limits, label, font_size)
    x, y = plate_corner(limits, corner, plate)
    canvas.rectangle((x, y, x + plate[0] - 1, y + plate[1] - 1), fill=colour)
    canvas.text((x + inset[0], y + inset[1]), label, font=font, fill=text_colour(colour))


def fitted_text(
    canvas: ImageDraw.ImageDraw, limits: Tuple[int, int], text: str, font_size: int
) -> Tuple[Any, Tuple[float, float], Tuple[float, float]]:
    """Finds the largest font, of `font_size` at most, in which a plate with `text` fits `limits` (width, height).

    Returns the font, where the text goes on the plate, and the plate's size (width, height).
    """
    while True:
        font = default_font(font_size)
        left, top, right, bottom = text_box(canvas, text, font)
        margin = font_size // 6
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        if (width <= limits[0] and height <= limits[1]) or font_size <= SMALLEST_FONT:
            return font, (margin - left, margin - top), (width, height)
        font_size = max(SMALLEST_FONT, font_size * 4 // 5)


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
