"""Every form of an image that programs hold gives the pixels that the same image's file has."""

import io

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image
from effedge.deploy.image.inputs import read_image


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def encoded(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **options)
    return file.getvalue()


def test_a_path_bytes_pillows_image_and_an_array_are_the_same_image(pixels, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    data = encoded(pixels)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), memoryview(data), pixels):
        np.testing.assert_array_equal(read_image(image), pixels)
    np.testing.assert_array_equal(read_image(Image.fromarray(pixels)), pixels)
    with Image.open(tmp_path / "a.png") as unread:
        np.testing.assert_array_equal(read_image(unread), pixels)


def test_an_rgb_array_is_not_copied(pixels):
    assert read_image(pixels) is pixels


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_is_repeated(pixels, shape):
    grey = np.ascontiguousarray(pixels[..., 0]).reshape(shape)
    np.testing.assert_array_equal(read_image(grey), np.stack([pixels[..., 0]] * 3, axis=2))
    np.testing.assert_array_equal(read_image(grey, color="bgr"), read_image(grey))


def test_opencvs_order_is_turned_round_and_its_alpha_stays_last(pixels):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (the extra 'video')")
    np.testing.assert_array_equal(read_image(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), color="bgr"), pixels)
    rgba = np.dstack([pixels, np.arange(35, dtype=np.uint8).reshape(5, 7) * 7])
    bgra = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)
    np.testing.assert_array_equal(read_image(bgra, color="bgr"), read_image(rgba))


def test_alpha_is_composited_over_white_as_of_a_file(tmp_path):
    rgba = np.random.default_rng(1).integers(0, 256, (5, 7, 4), np.uint8)
    rgba[0, 0], rgba[0, 1] = (10, 20, 30, 0), (10, 20, 30, 255)
    (tmp_path / "a.png").write_bytes(encoded(rgba))
    for image in (rgba, Image.fromarray(rgba), encoded(rgba)):
        np.testing.assert_array_equal(read_image(image), open_image(tmp_path / "a.png"))
    assert read_image(rgba)[0, :2].tolist() == [[255, 255, 255], [10, 20, 30]]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "RGBA"])
def test_pillows_modes(pixels, mode):
    image = Image.fromarray(pixels)
    image = image.convert("RGBA").convert("LA") if mode == "LA" else image.convert(mode)
    assert read_image(image).shape == (5, 7, 3) and read_image(image).dtype == np.uint8


def test_bytes_are_upright_and_pillows_image_keeps_its_pixels(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(pixels, exif=exif)
    np.testing.assert_array_equal(read_image(data), np.rot90(pixels, -1))
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(data))), pixels)


def test_a_tensor_has_its_channels_first(pixels):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    np.testing.assert_array_equal(read_image(tensor), pixels)
    np.testing.assert_array_equal(read_image(tensor.flip(0), color="bgr"), pixels)
    np.testing.assert_array_equal(read_image(tensor / 255), pixels)
    np.testing.assert_array_equal(read_image((tensor.double() / 255).requires_grad_()), pixels)
    np.testing.assert_allclose(read_image((tensor / 255).bfloat16()).astype(int), pixels, atol=1)  # 8 bits
    assert read_image(torch.full((1, 1, 1), 0.6 / 255)).tolist() == [[[1, 1, 1]]]  # rounded
    np.testing.assert_array_equal(read_image(tensor[0]), read_image(np.ascontiguousarray(pixels[..., 0])))
    np.testing.assert_array_equal(read_image(tensor[:1]), read_image(np.ascontiguousarray(pixels[..., 0])))


def test_tensors_that_are_no_image_any_more():
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"from -1 to 2.*expected 0 to 1 \(before the normalization"):
        read_image(torch.tensor([-1.0, 2.0, 0.5, 0]).reshape(1, 2, 2))
    with pytest.raises(UserError, match="from nan to nan"):
        read_image(torch.full((3, 2, 2), float("nan")))
    with pytest.raises(UserError, match=r"list\(images\)"):
        read_image(torch.zeros(2, 3, 4, 4))
    with pytest.raises(UserError, match=r"permute\(2, 0, 1\)"):
        read_image(torch.zeros(5, 7, 3))
    with pytest.raises(UserError, match="int64"):
        read_image(torch.zeros(3, 5, 7, dtype=torch.int64))
    with pytest.raises(UserError, match="was given, expected"):
        read_image(torch.zeros(3, 0, 7))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "astype"),
        (np.zeros((4, 4, 3), np.uint16), "astype"),
        (np.zeros((4, 4), bool), "astype"),
        (np.zeros((3, 40, 50), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"list\(images\)"),
        (np.zeros((4, 4, 2), np.uint8), "expected uint8"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (np.zeros(5, np.uint8), "expected uint8"),
        (np.uint8(3), "an image of uint8"),
        (np.array(3, np.uint8), "expected uint8"),
        (None, "cv2.imread"),
        (7, "an image of int"),
        ({"image": 1}, "an image of dict"),
        (b"no image", "8 bytes"),
        (b"", "0 bytes"),
        ("gone.png", "no such image"),
        (Image.new("F", (4, 4)), "no known white"),
    ],
)
def test_anything_else_is_refused_by_a_line_that_says_what_to_do(image, words):
    with pytest.raises(UserError, match=words) as caught:
        read_image(image)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_cut_short(pixels):
    with pytest.raises(UserError, match="cannot read the image in the"):
        read_image(encoded(pixels)[:-30])


def test_pytorch_is_not_imported():
    import subprocess
    import sys

    script = (
        "import sys, numpy as np; from effedge.deploy.image.inputs import read_image; "
        "read_image(np.zeros((2, 2, 3), np.uint8)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
