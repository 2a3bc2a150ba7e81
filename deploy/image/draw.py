"""Draws results onto their image, in sizes that suit it: boxes with labels and scores, or the best classes."""

import colorsys
from typing import TYPE_CHECKING, Any, List, NamedTuple, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from effedge.deploy.image.classification import Classification
    from effedge.deploy.image.detections import Detections

GOLDEN_RATIO = 0.618034
SMALLEST_FONT = 8


class Plate(NamedTuple):
    """A text and the filled rectangle that it stands on."""

    text: str
    font: Any
    inset: Tuple[float, float]  # where the text goes, from the plate's top-left corner
    size: Tuple[float, float]  # width, height


def draw_detections(image: np.ndarray, detections: "Detections") -> np.ndarray:
    """Returns a copy of `image` (RGB uint8 [H,W,3]) with each box outlined and labelled, the best on top.

    No outline crosses a label, and no label covers another as long as one of its box's corners is free.
    """
    drawn = Image.fromarray(image)
    canvas = ImageDraw.Draw(drawn)
    font_size = usual_font_size(drawn)
    line_width = max(1, round(font_size / 7))
    outlined = list(detections)
    plates: List[Tuple[Plate, Tuple[float, float]]] = []
    taken: List[Tuple[float, float, float, float]] = []
    for (x0, y0, x1, y1), score, _, label in outlined:
        plate = fitted_plate(canvas, drawn.size, f"{label} {score:.2f}", font_size)
        corner = free_corner(drawn.size, (x0, y0, x1, y1), plate.size, taken)
        taken.append((*corner, *plate.size))
        plates.append((plate, corner))
    for (x0, y0, x1, y1), _, class_id, _ in reversed(outlined):
        # Pillow's rectangle includes its far edge, which lies one pixel past the image for a box that ends with it.
        right, bottom = min(x1, drawn.width - 1), min(y1, drawn.height - 1)
        sides = (x0, y0, max(x0, right), max(y0, bottom))
        canvas.rectangle(sides, outline=class_colour(class_id), width=line_width)
    for (plate, corner), detection in zip(reversed(plates), reversed(outlined)):
        draw_plate(canvas, plate, corner, class_colour(detection.class_id))
    return np.array(drawn)


def draw_classes(image: np.ndarray, classification: "Classification") -> np.ndarray:
    """Returns a copy of `image` (RGB uint8 [H,W,3]) with the classes and their scores in the top-left corner, the best
    at the top, as many as there is room for."""
    drawn = Image.fromarray(image)
    canvas = ImageDraw.Draw(drawn)
    font_size, top = usual_font_size(drawn), 0.0
    for class_id, label, score in classification:
        limits = (drawn.width, max(drawn.height - round(top), 0))
        plate = fitted_plate(canvas, limits, f"{label} {score:.2f}", font_size)
        if top and plate.size[1] > limits[1]:
            break
        draw_plate(canvas, plate, (0.0, top), class_colour(class_id))
        top += plate.size[1]
    return np.array(drawn)


def usual_font_size(image: Image.Image) -> int:
    """Computes the size of letters that suits an image."""
    return max(11, round(0.022 * (image.width + image.height) / 2))


def fitted_plate(canvas: ImageDraw.ImageDraw, limits: Tuple[int, int], text: str, font_size: int) -> Plate:
    """Returns a plate with `text` in the largest font, of `font_size` at most, that fits `limits` (width, height)."""
    while True:
        font = default_font(font_size)
        left, top, right, bottom = text_box(canvas, text, font)
        margin = font_size // 6
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        if (width <= limits[0] and height <= limits[1]) or font_size <= SMALLEST_FONT:
            return Plate(text, font, (margin - left, margin - top), (width, height))
        font_size = max(SMALLEST_FONT, font_size * 4 // 5)


def draw_plate(
    canvas: ImageDraw.ImageDraw, plate: Plate, corner: Tuple[float, float], colour: Tuple[int, int, int]
) -> None:
    """Draws a plate of `colour` with its text, black or white, from the plate's top-left `corner` on."""
    (x, y), (width, height), (right, down) = corner, plate.size, plate.inset
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    canvas.text((x + right, y + down), plate.text, font=plate.font, fill=text_colour(colour))


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


def free_corner(
    limits: Tuple[int, int],
    box: Tuple[float, float, float, float],
    size: Tuple[float, float],
    taken: Sequence[Tuple[float, float, float, float]],
) -> Tuple[float, float]:
    """Returns the top-left corner of a plate of `size` (width, height) at the first corner of `box` (xyxy) where it
    covers none of `taken` (x, y, width, height): above the box, left then right, below it, left then right. Where it
    does at all of them, the first."""
    x0, y0, x1, y1 = box
    width, height = size
    corners = [
        plate_corner(limits, (x0, y0), size),
        plate_corner(limits, (x1 - width, y0), size),
        plate_corner(limits, (x0, y1 + height), size),
        plate_corner(limits, (x1 - width, y1 + height), size),
    ]
    for x, y in corners:
        if not any(x < tx + tw and tx < x + width and y < ty + th and ty < y + height for tx, ty, tw, th in taken):
            return x, y
    return corners[0]


def plate_corner(
    limits: Tuple[int, int], corner: Tuple[float, float], size: Tuple[float, float]
) -> Tuple[float, float]:
    """Places a plate of `size` (width, height) above `corner`, or below it where there is no room above, and within
    `limits` (width, height). Returns its top-left corner."""
    x = max(0, min(corner[0], limits[0] - size[0]))
    y = corner[1] - size[1] if corner[1] >= size[1] else corner[1]
    return x, max(0, min(y, limits[1] - size[1]))


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
