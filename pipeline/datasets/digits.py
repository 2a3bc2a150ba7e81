"""Draws `digits`: a detection and a classification data set that needs no download.

scikit-learn carries 1,797 real handwritten digits (the test part of UCI's Optical Recognition of Handwritten Digits,
8x8 pixels, 16 grey levels), scikit-image and scikit-learn carry photographs. An image is a crop of a photograph with
digits painted on it at many scales, rotations, colours and overlaps. Every image follows from (split, index), so it is
the same on every machine. Training, calibration and validation share no digit and no photograph.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

LABELS = tuple("0123456789")
SPLITS = ("train", "calibration", "val")
PHOTOGRAPHS = {
    "train": (
        "skimage/astronaut", "skimage/camera", "skimage/brick", "skimage/grass", "skimage/motorcycle_left",
        "skimage/hubble_deep_field", "skimage/ihc", "skimage/moon", "skimage/rocket", "skimage/retina",
        "skimage/coins", "skimage/clock_motion", "skimage/cell",
    ),
    "calibration": ("skimage/chelsea", "skimage/gravel"),
    "val": ("sklearn/china", "sklearn/flower", "skimage/coffee"),
}  # fmt: skip
DIGITS_SHARE = {"train": 1197, "calibration": 200, "val": 400}

# Images of the written data set, (height, width): several shapes, so that measurements include letterboxing.
SHAPES = ((512, 512), (480, 640), (640, 480), (432, 576))
SMALLEST, LARGEST = 14, 300  # a digit's height in pixels, drawn log-uniformly
MOST_DIGITS = 12
LARGEST_ANGLE = 20.0  # degrees; beyond it a 6 is a 9
LEAST_CONTRAST = 80.0  # between a digit's grey value and the mean of the pixels behind it
LARGEST_COVER = 0.25  # the share of a digit that all later digits together may hide


class LabelledImage(NamedTuple):
    """An image and its objects."""

    image: np.ndarray  # uint8 [H,W,3] RGB
    boxes: np.ndarray  # float32 [n,4] xyxy in pixels
    class_ids: np.ndarray  # int64 [n]


@functools.cache
def digits_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Loads the split's digits: float32 [n,8,8] in 0..1, and their class ids int64 [n]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    start = 0
    for name in SPLITS:
        part = order[start : start + DIGITS_SHARE[name]]
        start += DIGITS_SHARE[name]
        if name == split:
            return (data.images[part] / 16.0).astype(np.float32), data.target[part].astype(np.int64)
    raise ValueError(f"no split {split}")


@functools.cache
def photographs_of(split: str) -> list[np.ndarray]:
    """Reads the split's photographs, uint8 [H,W,3] RGB, from the packages' files; nothing is downloaded."""
    import skimage.data
    import sklearn.datasets

    folders = {
        "skimage": Path(skimage.data.__file__).parent,
        "sklearn": Path(sklearn.datasets.__file__).parent / "images",
    }
    photographs = []
    for name in PHOTOGRAPHS[split]:
        package, stem = name.split("/")
        file = next(path for suffix in (".png", ".jpg") if (path := folders[package] / (stem + suffix)).exists())
        with Image.open(file) as image:
            photographs.append(np.asarray(image.convert("RGB")))
    return photographs


def background(random: np.random.Generator, split: str, height: int, width: int) -> np.ndarray:
    """Crops one of the split's photographs at a random zoom, mirrored or not: uint8 [height,width,3].

    The training split has few photographs, which a network would soon know by heart: its photographs are also rotated,
    recoloured and cropped more freely.
    """
    photographs = photographs_of(split)
    photograph = photographs[random.integers(len(photographs))]
    training = split == "train"
    if training:
        photograph = np.rot90(photograph, int(random.integers(4)))
    full = min(photograph.shape[0] / height, photograph.shape[1] / width)
    zoom = full * random.uniform(0.15 if training else 0.4, 1.0)
    h, w = zoom * height, zoom * width
    top, left = random.uniform(0, photograph.shape[0] - h), random.uniform(0, photograph.shape[1] - w)
    # Cutting the region out first spares Pillow the conversion of the whole photograph.
    y0, x0, y1, x1 = int(top), int(left), math.ceil(top + h), math.ceil(left + w)
    region = Image.fromarray(np.ascontiguousarray(photograph[y0:y1, x0:x1]))
    box = (left - x0, top - y0, left - x0 + w, top - y0 + h)
    pixels = np.asarray(region.resize((width, height), Image.Resampling.BILINEAR, box=box)).astype(np.float32)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    if training:
        pixels = recolour(random, pixels)
    return np.clip(pixels * random.uniform(0.6, 1.2), 0, 255).astype(np.uint8)


def recolour(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Mixes the channels of pixels [h,w,3] at random, inverts some images, and applies a gain and offset by channel."""
    mixing = np.eye(3)[random.permutation(3)] + random.uniform(-0.3, 0.3, (3, 3))
    mixing /= mixing.sum(axis=0)
    # As one large matrix: the product of thousands of small matrices, one a row, is slow.
    pixels = (pixels.reshape(-1, 3) @ mixing.astype(np.float32)).reshape(pixels.shape)
    if random.random() < 0.25:
        pixels = 255 - pixels
    return pixels * random.uniform(0.7, 1.3, 3).astype(np.float32) + random.uniform(-30, 30, 3).astype(np.float32)


def stroke(random: np.random.Generator, digit: np.ndarray, height: float) -> np.ndarray:
    """Renders a digit's opacity, float32 [h,w] in 0..1: about `height` pixels high, rotated, stretched, cut to its box.

    The 8x8 grey levels are interpolated smoothly, then steepened: handwriting with an edge of a pixel or two, not a
    blur. The same threshold defines the box, so that boxes are exact.
    """
    angle = math.radians(random.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
    stretch = random.uniform(0.8, 1.25)
    scale_y, scale_x = height / 8, height / 8 * stretch
    side = math.ceil(height * 1.7) + 4
    padded = Image.fromarray(np.pad(digit, 4))
    # From output pixel to input pixel: centre, rotate back, shrink, centre of the padded 16x16 digit.
    cos, sin, centre = math.cos(angle), math.sin(angle), side / 2
    a, b = cos / scale_x, sin / scale_x
    d, e = -sin / scale_y, cos / scale_y
    matrix = (a, b, 8 - a * centre - b * centre, d, e, 8 - d * centre - e * centre)
    grey = np.asarray(padded.transform((side, side), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC))
    sharpness = max(2.0, height / 12)
    opacity = np.clip((grey - 0.5) * sharpness + 0.5, 0.0, 1.0)
    visible = opacity > 0.5
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def colour_against(random: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """Draws a colour, float [3] in 0..255, that contrasts with the pixels [h,w,3] behind it."""
    grey = np.array([0.299, 0.587, 0.114])
    level = float(behind.reshape(-1, 3).mean(0) @ grey)
    for _ in range(50):
        colour = random.uniform(0, 255, 3)
        if abs(colour @ grey - level) >= LEAST_CONTRAST:
            return colour
    return np.full(3, 255.0 if level < 128 else 0.0)


def paint(canvas: np.ndarray, opacity: np.ndarray, colour: np.ndarray, top: int, left: int) -> None:
    """Blends a stroke onto `canvas`, uint8 [H,W,3], in place."""
    height, width = opacity.shape
    region = canvas[top : top + height, left : left + width]
    region[:] = np.rint(region * (1 - opacity[..., None]) + colour * opacity[..., None]).astype(np.uint8)


def random_stroke(random: np.random.Generator, split: str, smallest: float, largest: float) -> tuple[np.ndarray, int]:
    """Renders a digit of the split at a log-uniform height: (opacity [h,w], class id)."""
    images, targets = digits_of(split)
    index = random.integers(len(images))
    height = math.exp(random.uniform(math.log(smallest), math.log(largest)))
    return stroke(random, images[index], height), int(targets[index])


def draw_image(split: str, index: int, height: int, width: int, seed: int = 0) -> LabelledImage:
    """Draws image `index` of a split: up to MOST_DIGITS digits on a photograph. Equal arguments give equal pixels."""
    random = np.random.default_rng([seed, SPLITS.index(split), 0, index])
    canvas = background(random, split, height, width).copy()
    owner = np.full((height, width), -1)
    boxes: list[tuple[int, int, int, int]] = []
    class_ids: list[int] = []
    areas: list[int] = []
    for _ in range(random.integers(1, MOST_DIGITS + 1)):
        opacity, class_id = random_stroke(random, split, SMALLEST, min(LARGEST, 0.6 * min(height, width)))
        h, w = opacity.shape
        if h > height or w > width:
            continue
        for _ in range(10):  # look for a place where no earlier digit is hidden too much
            top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
            inked = opacity > 0.5
            owners = owner[top : top + h, left : left + w]
            hidden = np.bincount(owners[inked & (owners >= 0)], minlength=len(areas))
            shown = np.array([np.count_nonzero(owner == k) for k in np.flatnonzero(hidden)])
            if all(
                areas[k] - s + hidden[k] <= LARGEST_COVER * areas[k]
                for k, s in zip(np.flatnonzero(hidden), shown, strict=True)
            ):
                paint(canvas, opacity, colour_against(random, canvas[top : top + h, left : left + w]), top, left)
                owners[inked] = len(areas)
                boxes.append((left, top, left + w, top + h))
                class_ids.append(class_id)
                areas.append(int(np.count_nonzero(inked)))
                break
    return LabelledImage(canvas, np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int64))


def draw_crop(split: str, index: int, size: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Draws crop `index` for the classifier, (uint8 [size,size,3], class id): a digit of 0.4 to 0.8 of its height."""
    random = np.random.default_rng([seed, SPLITS.index(split), 1, index])
    canvas = background(random, split, size, size).copy()
    opacity, class_id = random_stroke(random, split, 0.4 * size, 0.8 * size)
    opacity = opacity[:size, :size]
    h, w = opacity.shape
    top, left = int(random.integers(size - h + 1)), int(random.integers(size - w + 1))
    paint(canvas, opacity, colour_against(random, canvas[top : top + h, left : left + w]), top, left)
    return canvas, class_id


def write_detection(folder: Path, split: str, count: int, progress: Callable[[range], range] = lambda x: x) -> None:
    """Writes `count` images of a split as `images/*.jpg` and COCO's `instances.json` into `folder`."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    (folder / "images").mkdir(parents=True)
    for index in progress(range(count)):
        height, width = SHAPES[index % len(SHAPES)]
        drawn = draw_image(split, index, height, width)
        name = f"{split}-{index:04d}.jpg"
        Image.fromarray(drawn.image).save(folder / "images" / name, quality=95)
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for (x0, y0, x1, y1), class_id in zip(drawn.boxes.tolist(), drawn.class_ids.tolist(), strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": index + 1, "category_id": class_id + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": index + 1, "name": label} for index, label in enumerate(LABELS)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "instances.json").write_text(text)


def write_classification(folder: Path, split: str, count: int, size: int,
                         progress: Callable[[range], range] = lambda x: x) -> None:  # fmt: skip
    """Writes `count` digit crops of a split as a folder per class."""
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    for index in progress(range(count)):
        image, class_id = draw_crop(split, index, size)
        Image.fromarray(image).save(folder / LABELS[class_id] / f"{split}-{index:04d}.png")
