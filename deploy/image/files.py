"""Reads images from the disk, as the networks take them: upright RGB, uint8 [H,W,3].

Before an image is plain RGB:

1. EXIF orientation is applied: boxes refer to the image as a viewer shows it.
2. 16-bit grey is scaled by 1/257 (65535 -> 255). Pillow's own conversion clips it, which leaves a white image.
3. Alpha is composited over white, as viewers show it. The colour under a transparent pixel is arbitrary (often black).
4. CMYK is converted without a colour profile. Adobe's JPEGs store CMYK inverted; Pillow undoes that when reading.
5. 32-bit integer and float images are refused: nothing in them says which value is white.
6. Of an animation the first frame is taken; the others are not decoded.

A file may come from anywhere. Only the formats of FORMATS are read, whatever the file's suffix: Pillow would start
Ghostscript for EPS. A file of 20 KB may hold an image of any size, so MOST_MEGAPIXELS limits it, and an image is
converted in bands: it takes 11 bytes a pixel at most, 700 MB in all. Draft mode, in which JPEGs are decoded at a half
of their size, is not used, though it is three times as fast for 4000 x 3000 pixels: the letterbox would differ from
that of the whole image, which results are compared by (by up to 2 grey levels in photographs, by 7 in a pattern of 3
pixels), and boxes would be in pixels of another image than the user's.
"""

import contextlib
import inspect
import os
import warnings
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import numpy as np
from PIL import Image

from effedge.deploy.common.cli import UserError

# A folder's images go by their suffix. Those of the last line need a plugin or a recent Pillow: without it they
# are refused by name when opened, rather than skipped without a word.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2"),
    *(".avif", ".heic", ".heif"),
)
# The formats of these suffixes by Pillow's names. MPO is a JPEG with more images behind it, as of phones.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF")
TAKES_FORMATS = "formats" in inspect.signature(Image.open).parameters  # from Pillow 8 on
LIMIT = "EFFEDGE_MAX_MEGAPIXELS"  # environment variable
MOST_MEGAPIXELS = 64.0  # without it: that of the largest 35 mm cameras; the largest model takes 2.4 (D7x, 1536 x 1536)
BAND = 1 << 20  # pixels that are converted at a time
WHITE = (255, 255, 255, 255)
EXIF_ORIENTATION = 0x0112
# Folders that systems make of their own accord, with copies of images or parts of them in: macOS' archives, Synology's
# thumbnails, Windows' bin.
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
# How the stored pixels of each orientation become upright: whether they are transposed, and then mirrored in x and y.
# EXIF 2.3, table 6 (1 is upright).
TURNS = {
    2: (False, True, False), 3: (False, True, True), 4: (False, False, True),
    5: (True, False, False), 6: (True, True, False), 7: (True, True, True), 8: (True, False, True),
}  # fmt: skip


def open_image(path: Union[str, Path]) -> np.ndarray:
    """Reads the image at `path` as upright RGB, uint8 [H,W,3].

    Raises UserError, naming the file, if it is missing, no image, cut short, too large, or of unknown white.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no such image: '{path}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder, expected an image")
    with explained_errors(f"'{path}'"), open_head(str(path)) as image:
        return to_rgb(image)


def open_head(source: Union[str, Path, IO[bytes]]) -> Image.Image:
    """Opens an image's file for its format and size; its pixels are read when they are needed.

    Raises UserError for an image of more pixels than allowed, and what Pillow raises for no image of FORMATS.
    """
    Image.init()
    limit = most_pixels()
    if LIMIT in os.environ and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)  # Pillow refuses twice as many
    formats: Dict[str, Any] = {"formats": [name for name in FORMATS if name in Image.OPEN]} if TAKES_FORMATS else {}
    image: Image.Image = Image.open(source, **formats)
    problem = ""
    if image.format not in FORMATS:
        problem = f"it is {image.format}, expected {', '.join(FORMATS)}"
    elif image.width * image.height > limit:
        size = f"{image.width} x {image.height} pixels, {image.width * image.height / 1e6:.0f} million"
        problem = f"it has {size}, at most {limit / 1e6:g} are read: scale it down, or set {LIMIT} to more"
    if problem:
        image.close()
        raise UserError(problem)
    return image


def most_pixels() -> int:
    """Returns the number of pixels that an image may have. Raises UserError if the user's LIMIT is no such number."""
    try:
        megapixels = float(os.environ.get(LIMIT, MOST_MEGAPIXELS))
    except ValueError:
        megapixels = 0
    if not 0 < megapixels < 1e6:
        raise UserError(f"{LIMIT} is '{os.environ[LIMIT]}': expected a number of million pixels, such as 200")
    return int(megapixels * 1e6)


@contextlib.contextmanager
def explained_errors(name: str) -> Iterator[None]:
    """Turns the errors of Pillow that decode an image within the block to UserErrors; `name` is the image's."""
    try:
        # Pillow warns about odd metadata and about images of half the size that it refuses; neither is the user's
        # concern once the image is read.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError as error:
        raise UserError(f"cannot use the image {name}: {error}") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise UserError(f"the image {name} has more than {limit} million pixels: scale it down first") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{name} is no image of a format that is read: remove it or convert it to JPEG or PNG"
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file: struct.error, KeyError, ...
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot read the image {name}: {reason}; replace or remove the file") from error


def to_rgb(image: Image.Image, upright: bool = True) -> np.ndarray:
    """Converts an image to RGB, uint8 [H,W,3], by the numbered cases of the module's docstring.

    Args:
        upright: False leaves out case 1.

    Raises UserError for case 5, and what Pillow raises where the image's file is damaged.
    """
    image.load()
    turn = TURNS.get(orientation(image) or 1) if upright else None
    # Pillow before 11 opens 16-bit grey PNGs as 32-bit integers, and every Pillow does so with PGMs.
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        rgb[top:bottom] = sixteen_bit_to_8(band) if is_16_bit else np.asarray(to_8_bit_rgb(band))
    if turn is None:
        return rgb
    transpose, mirror_x, mirror_y = turn
    turned = rgb.transpose(1, 0, 2) if transpose else rgb
    return np.ascontiguousarray(turned[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])


def sixteen_bit_to_8(image: Image.Image) -> np.ndarray:
    """Scales 16-bit grey [h,w] to 8 bits, [h,w,1]."""
    grey: np.ndarray = (np.asarray(image).astype(np.uint32) + 128) // 257
    return grey[..., np.newaxis]


def to_8_bit_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any other mode to RGB."""
    if image.mode in ("I", "F"):
        raise UserError("its pixels are 32-bit numbers with no known white; convert it to 8 or 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> Optional[int]:
    """Returns the EXIF orientation as it stands in the file, None without one."""
    try:
        return image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # damaged metadata, of which Pillow raises almost anything, is no reason to refuse good pixels
        return None


def read_images(paths: Iterable[Path], unread: List[str]) -> Iterator[Tuple[Path, np.ndarray]]:
    """Yields each path with its image, as `open_image` reads it; adds the errors of those that it cannot to `unread`.

    One damaged file among thousands does not lose the results of the others: the command lists it at its end, and exits
    with status 1.
    """
    for path in paths:
        try:
            image = open_image(path)
        except UserError as error:
            unread.append(str(error))
        else:
            yield path, image


def find_images(source: Union[str, Path]) -> List[Path]:
    """Returns the images that a path stands for: itself, or those of the folder. UserError if there are none."""
    path = Path(source)
    if not path.exists():
        raise UserError(f"no such image or folder: '{source}'")
    return list_images(path) if path.is_dir() else [path]


def is_hidden(path: Path) -> bool:
    """Returns True if a part of a relative path begins with a dot, as .DS_Store and ._a.jpg do, or is a system's."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in path.parts)


def is_image(path: Path) -> bool:
    """Returns True for a file with an image's suffix that is not hidden."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(Path(path.name)) and path.is_file()


def list_images(folder: Union[str, Path]) -> List[Path]:
    """Returns the images in `folder` by their suffix, sorted by name.

    Hidden files are left out, and sub-folders, where a run's own drawings may be. Raises UserError if the folder is
    missing or has no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such folder of images: '{folder}'")
    try:
        files = [path for path in folder.iterdir() if is_image(path)]
    except OSError as error:
        raise UserError(f"cannot list the folder '{folder}': {error.strerror}") from error
    if not files:
        raise UserError(f"no images in '{folder}': expected .jpg, .png and the like (sub-folders are not searched)")
    return sorted(files)
