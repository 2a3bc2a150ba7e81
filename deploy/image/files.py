"""Reads images from the disk, as the networks take them: upright RGB, uint8 [H,W,3].

Before an image is plain RGB:

1. EXIF orientation is applied: boxes refer to the image as a viewer shows it.
2. 16-bit grey is scaled by 1/257 (65535 -> 255). Pillow's own conversion clips it, which leaves a white image.
3. Alpha is composited over white, as viewers show it. The colour under a transparent pixel is arbitrary (often black).
4. CMYK is converted without a colour profile. Adobe's JPEGs store CMYK inverted; Pillow undoes that when reading.
5. 32-bit integer and float images are refused: nothing in them says which value is white.
6. Of an animation the first frame is taken.
"""

import warnings
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Optional, Tuple, Union

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
# Pillow has the enumeration from 9.1 on, and before it its members in the module itself.
TRANSPOSE: Any = getattr(Image, "Transpose", Image)
WHITE = (255, 255, 255, 255)
EXIF_ORIENTATION = 0x0112
# Folders that systems make of their own accord, with copies of images or parts of them in: macOS' archives, Synology's
# thumbnails, Windows' bin.
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
# The transposition that makes an image of each orientation upright: EXIF 2.3, table 6 (1 is upright).
TRANSPOSITIONS = {
    2: TRANSPOSE.FLIP_LEFT_RIGHT,
    3: TRANSPOSE.ROTATE_180,
    4: TRANSPOSE.FLIP_TOP_BOTTOM,
    5: TRANSPOSE.TRANSPOSE,
    6: TRANSPOSE.ROTATE_270,
    7: TRANSPOSE.TRANSVERSE,
    8: TRANSPOSE.ROTATE_90,
}


def open_image(path: Union[str, Path]) -> np.ndarray:
    """Reads the image at `path` as upright RGB, uint8 [H,W,3].

    Raises UserError, naming the file, if it is missing, no image, cut short, too large, or of unknown white.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no such image: '{path}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder, expected an image")
    try:
        # Pillow warns about odd metadata and about images of half the size that it refuses; neither is the user's
        # concern once the image is read.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(str(path)) as image:
                image.load()
                rgb = to_rgb(image)
    except UserError as error:
        raise UserError(f"cannot use the image '{path}': {error}") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise UserError(f"the image '{path}' has more than {limit} million pixels: scale it down first") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"'{path}' is no image that Pillow knows: remove it or convert it to JPEG or PNG") from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file: struct.error, KeyError, ...
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot read the image '{path}': {reason}; replace or remove the file") from error
    return np.array(rgb)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a loaded image to upright RGB, by the numbered cases of the module's docstring. UserError for case 5."""
    # Pillow before 11 opens 16-bit grey PNGs as 32-bit integers, and every Pillow does so with PGMs.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        rgb = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    elif image.mode in ("I", "F"):
        raise UserError("its pixels are 32-bit numbers with no known white; convert it to 8 or 16 bits")
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    number = orientation(image)
    return rgb.transpose(TRANSPOSITIONS[number]) if number in TRANSPOSITIONS else rgb


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
