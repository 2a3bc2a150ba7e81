"""Evaluation end to end, with models that detect the red and the green of an image."""

import hashlib
import json

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest
import torch
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.evaluation.evaluate import evaluate_engine, main, table
from effedge.pipeline.evaluation.pytorch import evaluate_torch

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}


class ColourFinder(torch.nn.Module):
    """uint8 [N,H,W,3] -> one candidate for each colour channel: the box around what is above 127 in it."""

    def forward(self, images):
        boxes, scores = [], []
        for image in images:
            for channel, score in zip(range(3), (0.9, 0.8, 0.7), strict=True):
                y, x = torch.where(image[..., channel] > 127)
                empty = len(x) == 0
                boxes.append([0, 0, 0, 0] if empty else [x.min(), y.min(), x.max() + 1, y.max() + 1])
                scores.append(0.0 if empty else score)
        n = len(images)
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(n, 3, 4)
        return boxes, torch.tensor(scores).reshape(n, 3), torch.arange(3, dtype=torch.int32).expand(n, 3)


class ColourMean(torch.nn.Module):
    """uint8 [N,H,W,3] -> logits: the mean of each channel."""

    def forward(self, images):
        return images.float().mean((1, 2))


def spec(task, labels, batch=1):
    where = {"size": [64, 64], "batch": [1, batch, batch], "interpolation": "bilinear"}
    where |= (
        {"resize": "letterbox", "fill": [0, 0, 0]} if task == "detection" else {"resize": "center-crop", "crop": 1.0}
    )
    return {"model": "tiny", "task": task, "labels": labels, "input": where}


@pytest.fixture
def coco(tmp_path):
    """Three images, wider than high: red at (32, 16, 64, 48), green at (96, 0, 128, 64), and one of both."""
    images, annotations = [], []
    for image_id, colours in enumerate([["red"], ["green"], ["red", "green"]], 1):
        pixels = np.zeros((64, 128, 3), np.uint8)
        for colour in colours:
            x0, y0, x1, y1 = {"red": (32, 16, 64, 48), "green": (96, 0, 128, 64)}[colour]
            pixels[y0:y1, x0:x1] = COLOURS[colour]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": 10 if colour == "green" else 20,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            })  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png"})
    categories = [{"id": 10, "name": "Green"}, {"id": 20, "name": "red"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def folders(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / "classes" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (70, 64), colour).save(tmp_path / "classes" / name / f"{index}.png")
    Image.new("RGB", (64, 64), COLOURS["green"]).save(tmp_path / "classes" / "red" / "wrong.png")
    return tmp_path / "classes"


@pytest.mark.parametrize("batch", [1, 2])
def test_a_detector_that_finds_everything_has_an_ap_of_one_whatever_the_order_of_the_classes(coco, batch):
    result = evaluate_torch(ColourFinder(), spec("detection", ["red", "green", None], batch), str(coco))
    assert result["images"] == 3 and result["task"] == "detection"
    assert result["figures"]["AP"] == 1.0 and result["figures"]["AR100"] == 1.0
    assert result["per_class"] == {"Green": 1.0, "red": 1.0}
    swapped = evaluate_torch(ColourFinder(), spec("detection", ["green", "red", None], batch), str(coco))
    assert swapped["figures"]["AP"] == 0.0


def test_a_class_that_the_model_does_not_have_counts_as_not_found_and_is_named(coco, capsys):
    result = evaluate_torch(ColourFinder(), spec("detection", ["red", "x", None]), str(coco))
    assert result["per_class"] == {"Green": 0.0, "red": 1.0} and result["figures"]["AP"] == 0.5
    assert "1 classes are unknown to the model and count as not found: Green" in capsys.readouterr().err


def test_a_classifiers_top_1_is_the_share_that_it_gets_right(folders):
    result = evaluate_torch(ColourMean(), spec("classification", ["red", "green", "blue"]), str(folders))
    assert result["images"] == 5 and result["figures"] == {"top-1": 0.8, "top-5": 1.0}
    limited = evaluate_torch(ColourMean(), spec("classification", ["red", "green", "blue"]), str(folders), limit=2)
    assert limited["images"] == 2 and limited["figures"]["top-1"] == 1.0


def test_data_for_the_other_task_is_refused(folders, coco):
    with pytest.raises(UserError, match="is for classification, tiny is for detection"):
        evaluate_torch(ColourFinder(), spec("detection", ["red", "green", "blue"]), str(folders))
    with pytest.raises(UserError, match="is for detection, tiny is for classification"):
        evaluate_torch(ColourMean(), spec("classification", ["red", "green", "blue"]), str(coco))
    with pytest.raises(UserError, match="no class in common"):
        evaluate_torch(ColourFinder(), spec("detection", ["a", "b", "c"]), str(coco))


@pytest.fixture
def engine(tmp_path):
    """ColourMean as an engine folder."""
    image = ops.parameter([1, 64, 64, 3], np.uint8, name="image")
    image.output(0).get_tensor().set_names({"image"})
    mean = ops.reduce_mean(ops.convert(image, np.float32), ops.constant(np.int64([1, 2])), False)
    mean.output(0).get_tensor().set_names({"logits"})
    folder = tmp_path / "engine"
    folder.mkdir()
    ov.save_model(ov.Model([ops.result(mean)], [image], "tiny"), str(folder / "engine.xml"), compress_to_fp16=False)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    manifest = {"format": 1, "spec": spec("classification", ["red", "green", "blue"]), "engine": "engine.xml"}
    manifest |= {"target": "cpu", "backend": {"name": "openvino", "version": ov.__version__}, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_an_engine_folder_scores_as_pytorch_does(engine, folders):
    result = evaluate_engine(engine, str(folders))
    torch_result = evaluate_torch(ColourMean(), spec("classification", ["red", "green", "blue"]), str(folders))
    assert result["figures"] == torch_result["figures"] and result["engine"] == str(engine)


def test_the_script_prints_a_table_and_writes_json(engine, folders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out" / "result.json"
    arguments = ["evaluate", str(engine), "--data", str(folders), "--json", str(out), "--limit", "3", "-q"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"tiny on {folders}: 3 images") and printed[1].split() == ["top-1", "1.0000"]
    assert json.loads(out.read_text())["figures"]["top-1"] == 1.0
    monkeypatch.setattr("sys.argv", ["evaluate", str(engine), "--data", str(folders), "--limit", "0"])
    with pytest.raises(UserError, match="--limit 0"):
        main()


def test_the_table_is_aligned_and_shows_a_dash_for_what_cannot_be_measured():
    figures, classes = {"AP": 0.5, "AP large": None}, {str(index): index / 10 for index in range(5)}
    result = {"model": "d0", "data": "x", "images": 10, "seconds": 2.0, "figures": figures, "per_class": classes}
    assert table(result).splitlines() == [
        "d0 on x: 10 images, 5.0 a second",
        "  AP        0.5000",
        "  AP large       -",
        "AP by class",
        "  0  0.0000   1  0.1000   2  0.2000   3  0.3000",
        "  4  0.4000",
    ]


def test_digits_are_drawn_once_into_the_cache(tmp_path, monkeypatch):
    from effedge.pipeline.datasets import digits_cache

    monkeypatch.setenv("EFFEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digits_cache, "COUNTS", {"detection": 4, "classification": 40})
    labels = [str(index) for index in range(10)]
    described = spec("detection", labels)
    result = evaluate_torch(ColourFinder(), described, "digits")
    assert result["images"] == 4 and result["figures"]["AP"] is not None
    [folder] = (tmp_path / "cache").iterdir()
    written = (folder / "instances.json").stat().st_mtime_ns
    assert evaluate_torch(ColourFinder(), described, "digits")["figures"] == result["figures"]
    assert (folder / "instances.json").stat().st_mtime_ns == written


def cut_short(path):
    """Leaves two thirds of a file, with its head."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def test_images_that_cannot_be_read_are_left_out_and_listed_at_the_end_with_status_1(
    engine, folders, tmp_path, monkeypatch, capsys
):
    cut_short(folders / "red" / "0.png")
    (folders / "green" / "1.png").write_text("<html>404</html>")
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["evaluate", str(engine), "--data", str(folders), "--json", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed, errors = capsys.readouterr()
    lines = [line for line in errors.splitlines() if line.startswith("error")]
    assert ended.value.code == 1 and f"tiny on {folders}: 3 images" in printed
    assert [name in line for line, name in zip(lines, ("1.png", "0.png", "2 of 5 images"), strict=True)] == [True] * 3
    result = json.loads(out.read_text())
    assert (result["images"], len(result["unread"])) == (3, 2) and result["figures"]["top-1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_results_stay_with_their_images_where_one_between_cannot_be_read(coco, tmp_path, batch):
    cut_short(tmp_path / "2.png")
    result = evaluate_torch(ColourFinder(), spec("detection", ["red", "green", None], batch), str(coco))
    assert result["images"] == 2 and result["figures"]["AP"] == 1.0 and "2.png" in result["unread"][0]


def test_data_none_of_which_can_be_read_are_an_error(coco, tmp_path):
    for index in (1, 2, 3):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 images of .* can be read; the first: '.*1.png' is no image"):
        evaluate_torch(ColourFinder(), spec("detection", ["red", "green", None]), str(coco))


def test_at_most_ten_images_are_listed(caplog):
    from effedge.deploy.image.unreadable import log_unreadable

    log_unreadable([f"cannot read {index}" for index in range(25)], 30, "the others are done")
    assert len(caplog.messages) == 12
    assert caplog.messages[-2:] == ["error: and 15 more like these",
                                    "error: 25 of 30 images could not be read; the others are done"]  # fmt: skip


def test_a_classs_name_commands_no_terminal():
    result = {"model": "m", "data": "d", "images": 1, "seconds": 1.0, "figures": {}, "per_class": {"a\x1b[2J": 0.5}}
    assert table(result).splitlines()[-1] == "  a\\x1b[2J  0.5000"
