"""Calibration data: what is read, in what order and shape, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effedge.calibration.ranges.samples import Input, Samples, array_samples, image_samples, list_images, spread
from effedge.deploy.common.cli import UserError

X = Input("x", np.dtype(np.float32), (1, 3, 4, 4))
SPEC = {"input": {"size": [8, 8], "resize": "letterbox", "interpolation": "bilinear", "fill": [1, 2, 3]}}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (16, 8), (index * 40, 0, 0)).save(folder / f"{index}.png")
    return folder


def test_arrays_are_fed_one_by_one_under_their_names(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32), np.arange(3)[:, None]
    np.savez(tmp_path / "data.npz", x=x, y=y, unused=np.zeros(7))
    samples = array_samples(tmp_path / "data.npz", [X, Input("y", np.dtype(np.int64), (1, 1))])
    assert len(samples) == 3
    for index, (name, feeds) in enumerate(samples):
        assert f"sample {index} of" in name and sorted(feeds) == ["x", "y"]
        np.testing.assert_array_equal(feeds["x"], x[index : index + 1])
        np.testing.assert_array_equal(feeds["y"], y[index : index + 1])


def test_the_samples_beside_are_those_that_spread_leaves_out() -> None:
    samples = Samples([str(index) for index in range(10)], lambda index: {"x": np.array(index)})
    taken, rest = samples.spread(3), samples.beside(3)
    assert sorted([*taken.names, *rest.names]) == sorted(samples.names) and len(rest) == 7
    assert [int(feeds["x"]) for _, feeds in rest] == [int(name) for name in rest.names]
    assert len(samples.beside(6)) == 10, "too few would be left: all are used"


def test_an_npy_serves_a_model_with_one_input_and_a_short_batch_is_filled_up(tmp_path: Path) -> None:
    x = np.arange(5 * 2, dtype=np.float32).reshape(5, 2)
    np.save(tmp_path / "x.npy", x)
    samples = array_samples(tmp_path / "x.npy", [Input("x", np.dtype(np.float32), (2, 2))])
    fed = [feeds["x"] for _, feeds in samples]
    np.testing.assert_array_equal(np.concatenate(fed), x[[0, 1, 2, 3, 4, 4]])


@pytest.mark.parametrize(("count", "starts"), [(1, [0]), (3, [0, 3, 6]), (100, list(range(10)))])
def test_count_takes_an_even_spread(tmp_path: Path, count: int, starts: list[int]) -> None:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32)[:, None])
    samples = array_samples(tmp_path / "x.npy", [Input("x", np.dtype(np.float32), (None, 1))], count)
    assert [int(feeds["x"][0, 0]) for _, feeds in samples] == starts


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((1, 3, 4, 4), np.float32)}, r"model also needs \['x'\]"),
        ({"x": np.zeros((1, 3, 4, 4), np.float64)}, "is float64, the model takes float32"),
        ({"x": np.zeros((2, 3, 4, 5), np.float32)}, r"has shape \[2, 3, 4, 5\], the model takes \[samples, 3, 4, 4\]"),
        ({"x": np.zeros((3, 4, 4), np.float32)}, r"has shape \[3, 4, 4\]"),
        ({"x": np.float32(1)}, r"has shape \[\]"),
        ({"x": np.zeros((0, 3, 4, 4), np.float32)}, "is empty"),
        ({"x": np.array([None])}, "plain arrays"),
    ],
)
def test_wrong_arrays_are_one_clear_line(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UserError, match=message):
        array_samples(tmp_path / "data.npz", [X])


def test_other_bad_array_files_are_one_clear_line(tmp_path: Path) -> None:
    two = [X, Input("y", np.dtype(np.int64), (1,))]
    with pytest.raises(UserError, match="no calibration data"):
        array_samples(tmp_path / "missing.npz", [X])
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="no whole .npz"):
        array_samples(tmp_path / "broken.npz", [X])
    np.save(tmp_path / "one.npy", np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(UserError, match="is one array"):
        array_samples(tmp_path / "one.npy", two)
    np.savez(tmp_path / "uneven.npz", x=np.zeros((2, 3, 4, 4), np.float32), y=np.zeros(3, np.int64))
    with pytest.raises(UserError, match="differ in length"):
        array_samples(tmp_path / "uneven.npz", two)
    with pytest.raises(UserError, match="--images 0"):
        array_samples(tmp_path / "one.npy", [X], 0)


def test_nan_in_the_data_names_the_input_and_the_sample(tmp_path: Path) -> None:
    x = np.zeros((3, 3, 4, 4), np.float32)
    x[2, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match="input 'x' is NaN or infinite in sample 2"):
        list(array_samples(tmp_path / "x.npy", [X]))


def test_images_go_through_the_models_preprocessing(images: Path) -> None:
    samples = image_samples(list_images(images), SPEC, Input("image", np.dtype(np.uint8), (2, 8, 8, 3)))
    feeds = [feeds["image"] for _, feeds in samples]
    assert [array.shape for array in feeds] == [(2, 8, 8, 3)] * 3  # five images, the last one twice
    assert feeds[0].dtype == np.uint8
    np.testing.assert_array_equal(feeds[1][:, 0, 0], [[80, 0, 0], [120, 0, 0]])
    np.testing.assert_array_equal(feeds[1][0, 4:], np.broadcast_to([1, 2, 3], (4, 8, 3)))  # the letterbox's fill
    np.testing.assert_array_equal(feeds[2][0], feeds[2][1])


def test_images_are_stretched_where_the_model_says_so(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8))
    image.save(tmp_path / "wide.png")
    spec = {"input": {"size": [16, 8], "resize": "stretch", "interpolation": "bilinear"}}
    samples = image_samples([tmp_path / "wide.png"], spec, Input("image", np.dtype(np.uint8), (1, 16, 8, 3)))
    [(_, feeds)] = samples
    expected = image.resize((8, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(feeds["image"][0], np.asarray(expected))


def test_a_coco_json_names_its_images(images: Path, tmp_path: Path) -> None:
    listing = tmp_path / "instances.json"
    listing.write_text(json.dumps({"images": [{"file_name": "3.png"}, {"file_name": "1.png"}]}))
    assert [path.name for path in list_images(listing, images)] == ["3.png", "1.png"]
    with pytest.raises(UserError, match="3.png.*missing.*--images-dir"):
        list_images(listing)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"images": [{}]}', '{"images": []}'])
def test_a_json_that_is_no_coco_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="no COCO json|lists no images"):
        list_images(tmp_path / "x.json")


def test_folders_without_images_and_files_that_are_none_are_refused(tmp_path: Path, images: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no calibration data at"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--images 0"):
        list_images(images, None, 0)
    (images / "5.jpg").write_text("no image")
    with pytest.raises(UserError, match="5.jpg"):
        list(image_samples(list_images(images), SPEC, Input("image", np.dtype(np.uint8), (1, 8, 8, 3))))


def test_spread_is_even() -> None:
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 5) == [1, 2]


def test_a_folder_per_class_is_found_beside_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png", "dog/._1.png", "@eaDir/1.png", "__MACOSX/1.png", ".trash/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 8)).save(tmp_path / name)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._cat.png", "README.md", "cat/Thumbs.db"):
        (tmp_path / name).write_bytes(b"no image")
    assert list_images(tmp_path) == [tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png"]


def test_a_coco_json_may_have_a_byte_order_mark(images: Path) -> None:
    (images / "data.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"images": [{"file_name": "1.png"}]}).encode())
    assert list_images(images / "data.json") == [images / "1.png"]


STATE = Input("h", np.dtype(np.float32), (2, 1, 8))
SCALAR = Input("t", np.dtype(np.float32), ())


def test_an_input_without_a_batch_takes_an_array_of_samples(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "x": random.normal(size=(5, 3, 4, 4)).astype(np.float32),
        "h": random.normal(size=(5, 2, 1, 8)).astype(np.float32),
        "t": np.arange(5, dtype=np.float32),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    samples = array_samples(tmp_path / "data.npz", [STATE, X, SCALAR])
    assert len(samples) == 5
    for index, (_, feeds) in enumerate(samples):
        assert {name: array.shape for name, array in feeds.items()} == {"x": (1, 3, 4, 4), "h": (2, 1, 8), "t": ()}
        assert all(isinstance(array, np.ndarray) for array in feeds.values())
        np.testing.assert_array_equal(feeds["h"], arrays["h"][index])
        assert feeds["t"] == index


def test_inputs_of_several_rows_a_run_and_of_one_go_together(tmp_path: Path) -> None:
    batch_of_2 = Input("x", np.dtype(np.float32), (2, 3))
    data = tmp_path / "data.npz"
    np.savez(data, x=np.arange(18, dtype=np.float32).reshape(6, 3), h=np.zeros((3, 2, 1, 8), np.float32))
    samples = array_samples(data, [STATE, batch_of_2])
    assert [feeds["x"][0, 0] for _, feeds in samples] == [0, 6, 12]
    np.savez(data, x=np.zeros((4, 3), np.float32), h=np.zeros((3, 2, 1, 8), np.float32))
    with pytest.raises(UserError, match=r"of which a run takes .*'x': 2.*as many samples for each input"):
        array_samples(data, [STATE, batch_of_2])


def test_whole_inputs_serve_a_model_with_a_batch_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 3, 4, 4), np.float32))
    samples = array_samples(tmp_path / "x.npy", [X])
    assert [feeds["x"].shape for _, feeds in samples] == [(1, 3, 4, 4)] * 4


@pytest.mark.parametrize(
    ("expected", "shape", "message"),
    [
        (STATE, (5, 1, 9), r"takes \[samples, 1, 8\], or \[samples, 2, 1, 8\] if it has no batch axis: convert it"),
        (SCALAR, (5, 1), r"has shape \[5, 1\], the model takes \[samples\]: convert it"),
        (SCALAR, (), r"has shape \[\], the model takes \[samples\]: convert it"),
        (Input("x", np.dtype(np.float32), (None, 3)), (5, 4), r"takes \[samples, 3\]: convert it"),
    ],
)
def test_a_wrong_shape_names_both_that_are_right(
    expected: Input, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", **{expected.name: np.zeros(shape, np.float32)})
    with pytest.raises(UserError, match=message):
        array_samples(tmp_path / "data.npz", [expected])
