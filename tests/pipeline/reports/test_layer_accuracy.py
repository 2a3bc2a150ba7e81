"""Checks the loss of each group of layers: a network with one bad group, with figures computed again by hand."""

import json
import re

import numpy as np
import onnx
import pytest
from PIL import Image

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.session import session_of
from effedge.calibration.graph.unquantize import int8_layers, unquantize
from effedge.calibration.quantize import calibrate
from effedge.calibration.ranges.samples import Input, image_samples
from effedge.calibration.settings import Settings
from effedge.pipeline.reports.layer_accuracy import describe_chance, main, measure, read_labelled_images

pytest.importorskip("openvino")
from tests.calibration import networks

COUNT = 40
BAD = "block2_depthwise"  # whose input gets steps so large that hardly anything is left of it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """simplified.onnx, int8.onnx with a bad group, and data/: noise, in folders of what float takes it for."""
    root = tmp_path_factory.mktemp("sensitivity")
    random = np.random.default_rng(0)
    (root / "noise").mkdir()
    for index in range(COUNT):
        base = random.integers(0, 256, (1, 1, 3)) + random.normal(0, 60, (32, 32, 3))
        Image.fromarray(np.clip(base, 0, 255).astype(np.uint8)).save(root / "noise" / f"{index:02}.png")
    proto = networks.classifier().proto(spec=networks.SPEC)
    paths = sorted((root / "noise").iterdir())
    logits = outputs(proto.SerializeToString(), paths)
    bias = next(each for each in proto.graph.initializer if each.name == "fc.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(-np.median(logits, axis=0), "fc.bias"))  # no class is the usual one
    onnx.save(proto, root / "simplified.onnx")
    for path, best in zip(paths, (logits - np.median(logits, axis=0)).argmax(axis=1), strict=True):
        (root / "data" / str(best)).mkdir(parents=True, exist_ok=True)
        path.rename(root / "data" / str(best) / path.name)
    settings = Settings("minmax", float_share=0.0)
    calibrate(root / "simplified.onnx", root / "data", root / "int8.onnx", settings=settings)
    spoil(root / "int8.onnx")
    return root


def spoil(path):
    """Make the bad group's steps a hundred times as large, and its gain the largest of all in the report."""
    model = onnx.load(path)
    entry = next(each for each in model.metadata_props if each.key == "effedge_calibration")
    report = json.loads(entry.value)
    for row in report["sensitivity"]:
        row["gain"] = 0.5 if row["layers"] == [BAD] else 0.001
    report["sensitivity"].sort(key=lambda row: -row["gain"])
    entry.value = json.dumps(report)
    node = next(node for node in model.graph.node if node.name == BAD)
    pair = next(each for each in model.graph.node if node.input[0] in each.output)
    scale = next(each for each in model.graph.initializer if each.name == pair.input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(100), scale.name))
    onnx.save(model, path)


def outputs(model, paths):
    """ONNX Runtime's logits for the images, [N,C]."""
    running = session_of(model)
    samples = image_samples(list(paths), networks.SPEC, Input("image", np.dtype(np.uint8), (1, 32, 32, 3)))
    return np.concatenate([running.run(None, feeds)[0] for _, feeds in samples])


@pytest.fixture(scope="module")
def result(folder):
    data = read_labelled_images(folder / "int8.onnx", str(folder / "data"), None, COUNT)
    return measure(folder / "int8.onnx", folder / "simplified.onnx", data)


def test_float_is_right_by_construction_and_the_bad_group_costs_what_it_costs_by_hand(folder, result):
    """By hand: all other layers out of INT8, and in place of what the integers stood for the float ONNX's weights, as
    this group's tensor is behind a swish, where no channels are equalized; evaluated on ONNX Runtime."""
    assert (result["images"], result["figure"], result["float"]) == (COUNT, "top-1", 100.0)
    int8 = onnx_file.load(folder / "int8.onnx")
    names = [node.name for node in int8_layers(int8)]
    changed = unquantize(int8, set(names) - {BAD})
    plain = {node.name: node for node in onnx_file.load(folder / "simplified.onnx").graph}
    for node in changed.graph:
        if node.name in names and node.name != BAD:
            for index in (1, 2):
                value = changed.graph.initializers.get(node.inputs[index].name)
                value.const_value = plain[node.name].inputs[index].const_value
    stem = next(node for node in changed.graph if node.name == "stem")  # its float weights are for the image itself
    stem.replace_input_with(0, next(value for node in changed.graph for value in node.outputs if value.name == "nchw"))
    stem.attributes["pads"] = plain["stem"].attributes["pads"]
    for node in list(changed.graph):  # the gates are for equalized channels, and the float weights are not
        if node.outputs[0].name.endswith(".gate"):
            for reader, index in list(node.outputs[0].uses()):
                reader.replace_input_with(index, node.inputs[0])
    paths = sorted((folder / "data").rglob("*.png"), key=lambda path: path.name)
    logits = outputs(onnx_file.ir.to_proto(changed).SerializeToString(), paths)
    right = [int(path.parent.name) == best for path, best in zip(paths, logits.argmax(axis=1), strict=True)]
    by_hand = 100 * float(np.mean(right))
    rows = json.loads(int8.metadata_props["effedge_calibration"])["sensitivity"]
    by_layer = {row["layers"][0]: points for row, points in zip(rows, result["groups"], strict=True)}
    assert by_hand < 75
    assert by_layer[BAD] == pytest.approx(by_hand, abs=100 / COUNT)  # of an image between two classes, say
    others = [points for layer, points in by_layer.items() if layer != BAD]
    assert min(others) > by_hand + 10 and np.mean(others) > 95, "no other group has the bad one's output error"
    assert result["int8"] < 75


def test_a_report_has_the_drops_of_the_worst_layers(call_main, folder, result, tmp_path):
    from effedge.engines import build
    from effedge.pipeline.reports.report import command

    engine = folder / "int8-cpu"
    asked = ("--target", "cpu", "--precision", "int8", "--out", engine)
    assert call_main(build.main, folder / "int8.onnx", *asked)[0] == 0
    report = [engine, "--data", folder / "data", "--out", tmp_path / "report.html", "--layers"]
    status, _, error = call_main(command.main, *report, 2)
    assert status == 0, error
    page = (tmp_path / "report.html").read_text()
    rows = re.search(r'<table class="layers">(.*?)</table>', page, re.DOTALL)[1].split("<tr>")[2:]
    drops = [re.findall(r'class="number">([^<]+?)\s*<', row)[1] for row in rows]
    assert drops[:2] == [f"{result['float'] - points:.2f}" for points in result["groups"][:2]]
    assert set(drops[2:]) == {"–"} and f"in points of top-1 on {COUNT} images" in page
    (folder / "simplified.onnx").rename(tmp_path / "away.onnx")
    try:
        status, _, error = call_main(command.main, *report, 1)
    finally:
        (tmp_path / "away.onnx").rename(folder / "simplified.onnx")
    assert status == 2 and error.startswith("error: no float model at")


@pytest.fixture
def call(call_main, folder):
    """call(*words, data): the command on the folder's INT8 model."""

    def inner(*words, model="int8.onnx", data="data"):
        return call_main(main, folder / model, "--data", folder / data, *words)

    return inner


@pytest.fixture
def quick(monkeypatch):
    """Accuracies that are made up: 100 of the float model, 90 of INT8, then 99, 98, 99, 98, ... of its groups."""
    calls = []

    def made_up(model, *, data):
        calls.append(model)
        return [100.0, 90.0][len(calls) - 1] if len(calls) < 3 else 99.0 - len(calls) % 2

    monkeypatch.setattr("effedge.pipeline.evaluation.accuracy_limit.accuracy", made_up)
    return calls


def test_the_command_prints_the_worst_first_and_writes_all(call, folder, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, _ = call("--limit", 30, "--worst", 2, "--json", tmp_path / "s.json", "--plot", tmp_path / "s.png")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "float: 100.00 points of top-1 on 30 images"
    assert re.fullmatch(r"INT8: \d+\.\d\d, a drop of \d+\.\d\d", lines[1])
    assert re.fullmatch(r"\d+ groups of layers, isolated one after the other: about 1 min", lines[2])
    assert lines[3].split() == ["rank", "drop", "gain", "MACs", "layers", "kept", "in"]
    assert lines[4].split()[0] == "1" and lines[4].split()[4] == BAD
    assert lines[6].endswith("none of which costs more (--worst N)")
    written = json.loads((tmp_path / "s.json").read_text())
    assert (written["figure"], written["images"], written["float"]) == ("top-1", 30, 100.0)
    rows = written["rows"]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["layers"] == [BAD] and rows[0]["drop"] == pytest.approx(100 - rows[0]["accuracy"])
    assert lines[4].split()[1] == f"{rows[0]['drop']:.2f}"
    with Image.open(tmp_path / "s.png") as image:
        assert image.width > 500


def test_groups_that_drop_the_same_are_ranked_by_their_gain(call, quick, tmp_path):
    assert call("--json", tmp_path / "s.json")[0] == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert len(quick) == len(rows) + 2
    keys = [(row["drop"], row["gain"]) for row in rows]
    assert keys == sorted(keys, reverse=True) and {drop for drop, _ in keys} == {1.0, 2.0}


def test_groups_in_16_bit_are_not_measured_and_come_last(call, quick, folder, tmp_path):
    model = unquantize(onnx_file.load(folder / "int8.onnx"), ["head", "logits"])
    onnx_file.save(model, folder / "fewer.onnx")
    status, out, _ = call("--worst", 99, "--json", tmp_path / "s.json", model="fewer.onnx")
    assert status == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert {name for row in rows[-2:] for name in row["layers"]} == {"head", "logits"}
    assert [row["drop"] for row in rows[-2:]] == [None, None] and rows[-3]["drop"] is not None
    assert len(quick) == len(rows) and f"{len(rows) - 2} groups of layers, isolated one after the other" in out
    assert [line.split()[1] for line in out.splitlines() if " head " in line] == ["-"]


def test_the_worst_groups_are_those_in_int8(folder, quick):
    """The two with the largest gains are in 16 bit: the next two are measured."""
    report = json.loads(onnx_file.load(folder / "int8.onnx").metadata_props["effedge_calibration"])
    order = [row["layers"] for row in report["sensitivity"]]
    model = unquantize(onnx_file.load(folder / "int8.onnx"), [name for layers in order[:2] for name in layers])
    onnx_file.save(model, folder / "kept.onnx")
    data = read_labelled_images(folder / "kept.onnx", str(folder / "data"), None, 4)
    groups = measure(folder / "kept.onnx", folder / "simplified.onnx", data, worst=2)["groups"]
    assert [index for index, points in enumerate(groups) if points is not None] == [2, 3]
    assert len(quick) == 4 and len(groups) == len(order)


def test_few_images_are_of_all_classes(folder):
    dataset = read_labelled_images(folder / "int8.onnx", str(folder / "data"), None, 20)
    assert len(dataset.records) == 20
    assert len({int(record.class_ids[0]) for record in dataset.records}) == len(list((folder / "data").iterdir()))


def test_ctrl_c_leaves_nothing(call, monkeypatch, tmp_path):
    def interrupt(model, *, data):
        raise KeyboardInterrupt

    monkeypatch.setattr("effedge.pipeline.evaluation.accuracy_limit.accuracy", interrupt)
    status, _, error = call("--json", tmp_path / "new" / "s.json", "--plot", tmp_path / "s.png")
    assert status == 2 and error.startswith("interrupted") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_limits_of_chance():
    top_1, ap = ({"figure": figure, "images": 200} for figure in ("top-1", "AP"))
    by_two = "a drop is chance up to 1.00 points, by which 2 groups are better than float"
    assert describe_chance([3.0, 0.0, -0.5, -1.0], top_1) == f"{by_two} or below 2.50 (5 of 200 images)"
    assert describe_chance([3.0, 0.0, -0.5, -1.0], ap) == by_two
    assert describe_chance([3.0], top_1) == "a drop is chance below 2.50 (5 of 200 images)"
    assert describe_chance([3.0], ap) == "no group is better than float"


def test_mistakes_are_one_line(call, quick, folder, tmp_path):
    with_report = onnx.load(folder / "int8.onnx")
    kept = {prop.key: prop.value for prop in with_report.metadata_props if prop.key != "effedge"}
    onnx.helper.set_model_props(with_report, kept)
    onnx.save(with_report, folder / "no-spec.onnx")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
        "categories": [{"id": 1, "name": "0"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    (tmp_path / "other.onnx").write_bytes(networks.classifier(seed=3).proto(spec=networks.SPEC).SerializeToString())
    for message, words, where in (
        ("no ONNX file at", (), {"model": "gone.onnx"}),
        ("has no report of an INT8 calibration", (), {"model": "simplified.onnx"}),
        ("accuracy needs a model that says what its outputs mean", (), {"model": "no-spec.onnx"}),
        ("is for detection", (), {"data": tmp_path / "instances.json"}),
        ("does not exist", (), {"data": "gone"}),
        ("--limit 0 leaves no images", ("--limit", 0), {}),
        ("--worst 0", ("--worst", 0), {}),
        ("of no kind that can be drawn", ("--plot", "s.xyz"), {}),
        ("give the one that", ("--float", tmp_path / "gone.onnx"), {}),
        ("is not the float model that", ("--float", tmp_path / "other.onnx"), {}),
    ):
        status, _, error = call(*words, **where)
        assert status == 2 and error.count("\n") == 1 and message in error
    assert not quick, "nothing was measured"
