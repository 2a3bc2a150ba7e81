"""No image's file, however damaged, is more than one line of error."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given

from effedge.deploy.image.files import open_image
from effedge.pipeline.datasets.image_sizes import read_size
from tests.fuzz.strategies import FAST, SLOW, damaged, one_line_or, run_of

FORMATS = {
    "png": {}, "jpeg": {"quality": 90}, "bmp": {}, "webp": {"lossless": True}, "gif": {},
    "tiff": {"compression": "tiff_lzw"}, "ppm": {}, "tga": {},
}  # fmt: skip


def encoded(kind: str) -> bytes:
    """A small image's file, with an EXIF orientation where the format has one."""
    from PIL import Image

    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    options = {**FORMATS[kind], **({"exif": exif} if kind in ("png", "jpeg", "webp", "tiff") else {})}
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind.upper(), **options)
    return file.getvalue()


def read(path, content: bytes) -> None:
    """Reads a file's size and pixels, each of which is one line of error or what it should be."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = one_line_or(lambda: open_image(path))
    assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3)
    if image is not None:
        assert read_size(path).upright == (image.shape[1], image.shape[0])


@pytest.mark.parametrize("count", [FAST // 2, pytest.param(SLOW // 4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_image_is_one_line(tmp_path, kind, count):
    @run_of(count)
    @given(damaged(encoded(kind)))
    def run(content):
        read(tmp_path / f"image.{kind}", content)

    run()
