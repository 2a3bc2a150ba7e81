"""`effedge report` from engines to the page: what is on it, what is escaped, and each mistake as one line."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from effedge.pipeline.reports.report import latency
from effedge.pipeline.reports.report.command import main
from tests.pipeline.reports.report import small_engines

pytest.importorskip("openvino")
A, B = [4, 4, 24, 24], [34, 4, 60, 30]
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    monkeypatch.setattr(latency, "LEAST_RUNS", 3)
    monkeypatch.setattr(latency, "warm_up", lambda run: run())


class Text(HTMLParser):
    """The text of a page, and its elements."""

    def __init__(self, page):
        super().__init__()
        self.text, self.elements = "", []
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.text += " "
        self.elements.append((tag, dict(attrs)))


@pytest.fixture
def report(call_main, tmp_path):
    def make(*words):
        status, out, error = call_main(main, *words, "--out", tmp_path / "r.html")
        assert status == 0, error
        assert out.splitlines()[-1] == f"report: {tmp_path / 'r.html'}"
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    return make


@pytest.fixture
def detectors(tmp_path):
    """INT8 finds one object less than FP32, and one that is not there."""
    fp32 = small_engines.detector(tmp_path / "e" / "fp32", [A, B], [0.9, 0.8], [0, 1])
    int8 = small_engines.detector(tmp_path / "e" / "int8", [A, [0, 40, 20, 60]], [0.9, 0.7], [0, 1], asked="int8")
    return int8, fp32, small_engines.coco(tmp_path / "data", [(0, A), (1, B)], images=3)


def test_detectors_are_compared_with_the_fp32_engine(report, detectors):
    int8, fp32, data = detectors
    text = Text(report(int8, fp32, "--data", data)).text
    assert "tiny FP32 reference 100.0" in text and "tiny INT8 50.0 −50.0" in text
    assert "dog 3 100.0 0.0 −100.0" in text and "cat 3 100.0 100.0 0.0" in text
    assert "3 of 3 images have other detections" in text
    assert "lost: dog (right), 0.800 → 0.000" in text and "new: dog (wrong), 0.000 → 0.700" in text
    assert "Apache 2.0" in text and "f32 100%" in text and "int8 100%" in text
    for name in ("p50", "p99", "SHA-256", "numpy"):
        assert name in text
    digest = json.loads((int8 / "manifest.json").read_text())["files"]["engine.xml"]
    assert digest in text
    assert "Sensitivity by layer: no INT8 ONNX" in text  # under what was not run


def test_images_on_the_page_are_small_jpegs_of_each_engine(report, detectors):
    int8, fp32, data = detectors
    images = [attrs["src"] for tag, attrs in Text(report(int8, fp32, "--data", data)).elements if tag == "img"]
    assert len(images) == 6
    for uri in images:
        prefix, encoded = uri.split(",")
        assert prefix == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.size == (64, 64)


def test_the_page_has_no_scripts_and_loads_nothing(report, detectors):
    int8, fp32, data = detectors
    page = report(int8, fp32, "--data", data)
    elements = Text(page).elements
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements}
    loaded = [attrs[key] for _, attrs in elements for key in ("src", "href", "action") if key in attrs]
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_names_of_classes_and_paths_are_escaped(report, tmp_path, task):
    labels = (SCRIPT, '"><img src=x>')
    folder = tmp_path / "<b>e & f"
    if task == "detection":
        engines = [small_engines.detector(folder / asked, [A], [0.9], [index], labels=labels, asked=asked)
                   for index, asked in enumerate(("fp32", "int8"))]  # fmt: skip
        data = small_engines.coco(tmp_path / "<i>data", [(0, A)], names=labels)
    else:
        engines = [small_engines.classifier(folder / asked, [index, 0.5], labels=labels, asked=asked)
                   for index, asked in enumerate(("fp32", "int8"))]  # fmt: skip
        rows = "a.png\t" + labels[0] + "\nb.png\t" + labels[1] + "\n"
        (tmp_path / "<i>data").mkdir()
        (tmp_path / "<i>data" / "labels.tsv").write_text(rows)
        for name in "ab":
            Image.new("RGB", (64, 64)).save(tmp_path / "<i>data" / f"{name}.png")
        data = tmp_path / "<i>data" / "labels.tsv"
    page = report(*engines, "--data", data)
    parsed = Text(page)
    assert SCRIPT in parsed.text and "<b>e & f" in parsed.text
    tags = [tag for tag, _ in parsed.elements]
    assert "script" not in tags and "b" not in tags and "i" not in tags
    assert all(attrs.get("src") != "x" for _, attrs in parsed.elements)


def test_a_detector_of_many_classes_has_its_most_confused_pairs(report, tmp_path):
    labels = [f"class {index}" for index in range(30)]
    engine = small_engines.detector(tmp_path / "fp32", [A, [0, 40, 20, 60]], [0.9, 0.8], [7, 8], labels=labels)
    data = small_engines.coco(tmp_path / "data", [(3, A), (4, B)], names=labels, images=3)
    text = Text(report(engine, "--data", data)).text
    assert "The pairs of classes that are confused most often" in text
    assert "any class not found 3 background any class 3 class 3 class 7 3" in text
    assert "class 4 3 0.0" in text and "class 20" not in text  # only classes with objects have an AP


def test_classifiers_have_top_1_confusions_and_changed_images(report, tmp_path):
    fp32 = small_engines.classifier(tmp_path / "fp32", [2.0, 1.0])
    int8 = small_engines.classifier(tmp_path / "int8", [1.0, 2.0], asked="int8")
    data = small_engines.class_folders(tmp_path / "data")
    text = Text(report(fp32, int8, "--data", data)).text
    assert "tiny FP32 reference 50.0" in text and "cat 2 100.0 0.0 −100.0" in text
    assert "tiny INT8 has 2 images wrong that tiny FP32 has right, and 2 right that it has wrong." in text
    assert "4 of 4 images have another best class" in text and "cat 0.73 (right)" in text
    assert re.search(r"Confusions .* cat dog cat 2 0 dog 2 0 .* cat dog cat 0 2 dog 0 2", text)


def test_an_engine_for_another_machine_is_reported_and_not_run(report, detectors, tmp_path):
    _, fp32, data = detectors
    other = small_engines.detector(tmp_path / "e" / "board", [A], [0.9], [0], asked="int8")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest |= {"target": "jetson-orin", "backend": {"name": "tensorrt", "version": "10.3.0"}}
    (other / "manifest.json").write_text(json.dumps(manifest))
    text = Text(report(fp32, other, "--data", data)).text
    assert "tiny INT8 does not run here: " in text and "jetson-orin" in text and "int8 100%" in text
    assert "tiny FP32 reference 100.0" in text and re.search(r"tiny INT8 – – –", text)
    alone = Text(report(other, "--data", data)).text
    assert "does not run here" in alone and "Accuracy" not in alone


def test_the_layers_of_the_calibration_beside_the_engine(report, tmp_path, monkeypatch):
    from effedge.pipeline.reports.report import layers

    rows = [
        {"rank": 1, "layers": ["/a/conv1", "/a/conv2"], "gain": 0.5, "macs": 0.1, "kept": "16 bit: it is the last"},
        {"rank": 2, "layers": ["/b/conv"], "gain": 0.0005, "macs": 0.1, "kept": "INT8"},
        {"rank": 3, "layers": ["/c/conv"], "gain": 0.0, "macs": 0.1, "kept": "INT8"},
    ]
    monkeypatch.setattr(layers, "calibrated_onnx", lambda engine: (tmp_path / "int8.onnx", rows))
    engine = small_engines.classifier(tmp_path / "int8", [2.0, 1.0], asked="int8")
    page = report(engine, "--data", small_engines.class_folders(tmp_path / "data"))
    text = Text(page).text
    assert "10⁻⁴ 10⁻³ 0.01 0.1 1" in text
    assert "a: conv1, conv2 0.5 it is the last" in text and "b.conv 0.0005" in text and "c.conv" not in text
    widths = [float(attrs["width"].rstrip("%")) for tag, attrs in Text(page).elements
              if tag == "rect" and attrs.get("x") == "0" and attrs.get("height") == "70%"]  # fmt: skip
    assert widths == pytest.approx([92.47, 17.47], abs=0.01)  # log10 of 0.5 and 0.0005 on four decades
    assert "drop" not in text


def test_images_left_out_are_named_and_the_status_is_1(call_main, detectors, tmp_path):
    int8, fp32, data = detectors
    (data.parent / "2.png").write_bytes(b"no image")
    status, _, error = call_main(main, fp32, "--data", data, "--out", tmp_path / "r.html")
    assert status == 1 and "2.png" in error
    text = Text((tmp_path / "r.html").read_text()).text
    assert "1 images that cannot be read" in text and "on 2 images of" in text
    status, _, _ = call_main(main, fp32, "--data", data, "--out", tmp_path / "r.html", "--limit", 2)
    assert "1 of the 3 images (--limit 2)" in Text((tmp_path / "r.html").read_text()).text


def test_mistakes_are_one_line_and_leave_no_page(call_main, detectors, tmp_path):
    int8, fp32, data = detectors
    classifier = small_engines.classifier(tmp_path / "c", [1.0, 2.0])
    arrays = small_engines.detector(tmp_path / "arrays", [A], [0.9], [0])
    manifest = json.loads((arrays / "manifest.json").read_text())
    (arrays / "manifest.json").write_text(json.dumps({**manifest, "spec": {}}))
    others = small_engines.coco(tmp_path / "others", [(0, A)], names=("fish", "bird", "cow"))
    empty = small_engines.coco(tmp_path / "empty", [])
    damaged = small_engines.detector(tmp_path / "damaged", [A], [0.9], [0])
    (damaged / "engine.xml").write_text("")
    folder = small_engines.class_folders(tmp_path / "classes")
    for words, expected in (
        ((fp32, classifier, "--data", data), "is an engine for classification"),
        ((arrays, "--data", data), "does not say what its outputs mean"),
        ((fp32, fp32, "--data", data), "was given 2 times"),
        ((damaged, "--data", data), "is not the file that was built"),
        ((tmp_path / "gone", "--data", data), "does not exist"),
        ((fp32, "--data", tmp_path / "gone.json"), "does not exist"),
        ((fp32, "--data", folder), "is for classification, tiny is for detection"),
        ((fp32, "--data", others), "no class in common"),
        ((fp32, "--data", empty), "no labelled object"),
        ((fp32, "--data", data, "--limit", 0), "--limit 0"),
        ((fp32, "--data", data, "--out", tmp_path), "expected a file"),
        ((fp32, "--data", data, "--out", tmp_path / "none" / "r.html"), "in a folder that exists"),
        ((fp32,), "--data"),
    ):
        if "--out" not in words:
            words = (*words, "--out", tmp_path / "page.html")
        status, _, error = call_main(main, *words)
        assert status == 2 and error.count("\n") == 1 and expected in error, (words, error)
    assert not (tmp_path / "page.html").exists()
