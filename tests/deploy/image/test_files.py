"""Images of every kind, written here with known colours, and read back as upright RGB."""

import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from effedge.deploy.common.cli import UserError
from effedge.deploy.image import files
from effedge.deploy.image.files import list_images, open_image

# Four corners of different colours, so that every turn and flip is told apart.
RED, GREEN, BLUE, GREY = (250, 10, 20), (10, 240, 30), (20, 30, 230), (128, 128, 128)


def corners(size: int = 16) -> np.ndarray:
    """uint8 [size,2*size,3]: red top left, green top right, blue bottom left, grey bottom right."""
    image = np.zeros((size, 2 * size, 3), np.uint8)
    half = size // 2
    image[:half, :size], image[:half, size:] = RED, GREEN
    image[half:, :size], image[half:, size:] = BLUE, GREY
    return image


def close(a: np.ndarray, b: np.ndarray, tolerance: int) -> bool:
    return a.shape == b.shape and abs(a.astype(int) - b.astype(int)).max() <= tolerance


# How each orientation stores an upright image: EXIF 2.3, "the 0th row / the 0th column is the visual ... side".
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],  # 0th column is the right side
    3: lambda p: p[::-1, ::-1],  # 0th row bottom, 0th column right
    4: lambda p: p[::-1],  # 0th row bottom
    5: lambda p: p.transpose(1, 0, 2),  # 0th row left, 0th column top
    6: lambda p: np.rot90(p, 1),  # 0th row right, 0th column top
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),  # 0th row right, 0th column bottom
    8: lambda p: np.rot90(p, -1),  # 0th row left, 0th column bottom
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    options.update(lossless=True) if suffix == "webp" else None
    options["tiffinfo" if suffix == "tif" else "exif"] = {0x0112: orientation} if suffix == "tif" else exif
    path = tmp_path / f"image.{suffix}"
    stored.save(path, **options)
    assert close(open_image(path), corners(), 6)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corners()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png"), corners())


def test_damaged_exif_does_not_lose_the_image(tmp_path):
    Image.fromarray(corners()).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    np.testing.assert_array_equal(open_image(tmp_path / "a.png"), corners())


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(np.uint8([[0, 100], [200, 255]])).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").tolist() == [[[0] * 3, [100] * 3], [[200] * 3, [255] * 3]]


def test_black_and_white_and_palette(tmp_path):
    Image.fromarray(np.uint8([[0, 255]])).convert("1").save(tmp_path / "bits.png")
    assert open_image(tmp_path / "bits.png").tolist() == [[[0] * 3, [255] * 3]]
    Image.fromarray(corners()).convert("P", palette=getattr(Image, "Palette", Image).ADAPTIVE, colors=4).save(
        tmp_path / "palette.png"
    )
    np.testing.assert_array_equal(open_image(tmp_path / "palette.png"), corners())


def grey16(path: Path, values: np.ndarray) -> None:
    """A 16-bit grey PNG, TIFF or PGM, written without the code under test."""
    height, width = values.shape
    big_endian = values.astype(">u2").tobytes()
    if path.suffix == ".png":
        rows = b"".join(b"\0" + big_endian[i * 2 * width : (i + 1) * 2 * width] for i in range(height))
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                for kind, data in [*chunks, (b"IEND", b"")]
            )
        )
    elif path.suffix == ".pgm":
        path.write_bytes(b"P5 %d %d 65535\n" % (width, height) + big_endian)
    else:
        Image.frombytes("I;16", (width, height), values.astype("<u2").tobytes()).save(path)


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    grey16(path, np.uint16([[0, 257, 25_700], [32_768, 65_406, 65_535]]))
    image = open_image(path)
    assert image.dtype == np.uint8
    assert image[..., 0].tolist() == [[0, 1, 100], [128, 254, 255]]  # 32768/257 = 127.502; 65406/257 = 254.498
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_numbers_are_refused_by_name(tmp_path, mode):
    Image.new(mode, (4, 4), 70_000).save(tmp_path / "depth.tif")
    with pytest.raises(UserError, match=r"depth\.tif.*32-bit"):
        open_image(tmp_path / "depth.tif")


def test_alpha_is_composited_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(0, 0, 0, 0), (200, 100, 0, 255), (0, 0, 0, 128)]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").tolist() == [[[255] * 3, [200, 100, 0], [127] * 3]]


def test_grey_alpha_and_transparent_palette_are_composited_over_white(tmp_path):
    Image.fromarray(np.uint8([[[0, 0], [50, 255]]]), "LA").save(tmp_path / "la.png")
    assert open_image(tmp_path / "la.png").tolist() == [[[255] * 3, [50] * 3]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    for suffix in ("png", "gif"):
        palette.save(tmp_path / f"p.{suffix}", transparency=0)
        assert open_image(tmp_path / f"p.{suffix}").tolist() == [[[255] * 3, [40, 50, 60]]]


def cmyk(rgb: np.ndarray) -> Image.Image:
    """Ink amounts (0 none, 255 full) of an RGB image, with no black ink."""
    ink = np.zeros((*rgb.shape[:2], 4), np.uint8)
    ink[..., :3] = 255 - rgb
    return Image.fromarray(ink, "CMYK")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cmyk(corners()).save(path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    assert close(open_image(path), corners(), 6)


def test_an_adobe_jpeg_with_inverted_cmyk_is_not_a_negative(tmp_path):
    path = tmp_path / "a.jpg"
    cmyk(np.full((16, 16, 3), 255, np.uint8)).save(path, quality=95)  # no ink at all: white
    data = path.read_bytes()
    assert b"Adobe" in data  # Pillow writes Adobe's marker and, as Adobe does, no ink as 255
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert (open_image(path) >= 254).all()


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour).quantize(2) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif")[0, 0].tolist() == list(RED)


def test_the_array_may_be_written_to(tmp_path):
    Image.fromarray(corners()).save(tmp_path / "a.png")
    image = open_image(str(tmp_path / "a.png"))
    image[:] = 0
    assert image.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "gif", "bmp"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=rf"cut\.{suffix}"):
        open_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0" * 1000])
def test_files_that_are_no_images_are_named(tmp_path, content):
    (tmp_path / "notes.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"notes\.jpg"):
        open_image(tmp_path / "notes.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp", "webp"])
def test_damaged_files_give_an_image_or_a_user_error_and_no_warning(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(corners()).save(path)
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(150):
            data = bytearray(original)
            for position in rng.integers(0, len(data), 4):
                data[position] = rng.integers(0, 256)
            path.write_bytes(data)
            try:
                assert open_image(path).ndim == 3
            except UserError as error:
                assert "a." + suffix in str(error)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no such image.*gone.jpg"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="is a folder"):
        open_image(tmp_path)


def bomb(path: Path, side: int) -> None:
    """A PNG of side x side black pixels in a small file."""
    Image.new("1", (side, side)).save(path)


def test_a_decompression_bomb_is_refused_and_a_large_image_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    bomb(tmp_path / "bomb.png", 1_500)
    with pytest.raises(UserError, match=r"bomb\.png.*more than 2 million pixels"):
        open_image(tmp_path / "bomb.png")
    bomb(tmp_path / "large.png", 1_300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "large.png").shape == (1_300, 1_300, 3)


def test_a_folder_lists_its_images_sorted_without_hidden_files_and_sub_folders(tmp_path):
    for name in ("b.JPG", "a.png", "c.heic", "notes.txt", ".hidden.jpg", "._b.JPG"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "z.jpg").write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.heic"]


def test_empty_and_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no images in"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "gone")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_eps_under_any_name_does_not_start_ghostscript(tmp_path, monkeypatch):
    started = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs" if hasattr(EpsImagePlugin, "gs_binary") else None, False)
    (tmp_path / "a.jpg").write_bytes(EPS)
    with pytest.raises(UserError, match=r"a\.jpg"):
        open_image(tmp_path / "a.jpg")
    assert not started.exists()


@pytest.mark.parametrize("kind", ["ICO", "PCX", "SGI", "IM", "PDF"])
def test_other_formats_are_refused_under_any_name(tmp_path, kind):
    Image.fromarray(corners()).save(tmp_path / "a.png", kind)
    with pytest.raises(UserError, match=r"a\.png"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PPM", "TGA", "BMP", "TIFF", "PNG"])
def test_the_formats_that_are_read_are_read_under_any_name(tmp_path, kind):
    Image.fromarray(corners()).save(tmp_path / "a.jpg", kind)
    np.testing.assert_array_equal(open_image(tmp_path / "a.jpg"), corners())


def test_a_small_file_with_a_huge_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    bomb(tmp_path / "bomb.png", 9_000)
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(
        UserError, match=r"bomb\.png.* 9000 x 9000 pixels, 81 million, .*EFFEDGE_MAX_MEGAPIXELS to more"
    ):
        open_image(tmp_path / "bomb.png")


def test_the_user_may_set_the_limit_also_beyond_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    bomb(tmp_path / "large.png", 1_500)
    monkeypatch.setenv("EFFEDGE_MAX_MEGAPIXELS", "2.3")
    assert open_image(tmp_path / "large.png").shape == (1_500, 1_500, 3)
    monkeypatch.setenv("EFFEDGE_MAX_MEGAPIXELS", "2.2")
    with pytest.raises(UserError, match="at most 2.2 are read"):
        open_image(tmp_path / "large.png")


@pytest.mark.parametrize("limit", ["", "many", "0", "-1", "nan", "inf", "1e9"])
def test_a_limit_that_is_none_is_one_line(tmp_path, monkeypatch, limit):
    Image.fromarray(corners()).save(tmp_path / "a.png")
    monkeypatch.setenv("EFFEDGE_MAX_MEGAPIXELS", limit)
    with pytest.raises(UserError, match=f"EFFEDGE_MAX_MEGAPIXELS is '{limit}': expected a number"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_bands_give_the_pixels_of_the_whole(tmp_path, monkeypatch, mode, orientation):
    noise = np.random.default_rng(0).integers(0, 256, (33, 20, 4), dtype=np.uint8)
    image = Image.fromarray(noise) if mode != "I;16" else Image.fromarray(noise[..., 0].astype(np.uint16) * 251)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.tif"
    (image if mode in ("RGBA", "I;16") else image.convert("RGB").convert(mode)).save(path, exif=exif)
    whole = open_image(path)
    monkeypatch.setattr(files, "BAND", 60)  # three rows
    np.testing.assert_array_equal(open_image(path), whole)


def test_an_image_takes_eleven_bytes_a_pixel_at_most(tmp_path):
    """In a process of its own, whose largest resident set is that of this image (in KiB on Linux)."""
    code = (
        "import resource, sys; from effedge.deploy.image.files import open_image; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; "
        "open_image(sys.argv[1]); before = peak(); open_image(sys.argv[2]); print(peak() - before)"
    )
    sizes = ((32, 32), (3000, 4000))
    exif = Image.Exif()
    exif[0x0112] = 6
    for size in sizes:
        Image.new("RGBA", size, (9, 9, 9, 9)).save(tmp_path / f"{size[0]}.png", exif=exif)
    words = [sys.executable, "-c", code, *(str(tmp_path / f"{width}.png") for width, _ in sizes)]
    grown = int(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    assert grown < 12 * 3000 * 4000
