"""The Python models: that the steps of an ensemble, one after the other, give exactly what Detector, Classifier and
Runner give, and that each request has its own results and its own error."""

import json
import sys

import numpy as np
import pytest

from effedge import Classifier, Detector, Runner
from effedge.deploy.triton.prepare_images import TritonPythonModel as Prepare
from effedge.deploy.triton.run_engine import TritonPythonModel as RunEngine
from effedge.deploy.triton.select_results import TritonPythonModel as Select
from tests.deploy.scenes import png, scene
from tests.deploy.triton.conftest import change
from tests.deploy.triton.fake_backend import Request, arguments, files, install

IMAGES = [scene(), scene(red=(11, 12, 50, 60), blue=None), scene(200, 90, red=None, blue=(1, 2, 80, 190))]


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", install())


def load(model, folder):
    loaded = model()
    loaded.initialize(arguments(folder))
    return loaded


def run_ensemble(repository, requests, name="tiny", **parameters):
    """The responses of an ensemble's three steps, each run once for all requests, which have an image array each."""
    prepared = load(Prepare, repository / f"{name}-prepare").execute([Request({"image": each}) for each in requests])
    engine = load(RunEngine, repository / "tiny-engine").execute(
        [Request({"image": each.arrays["pixels"]}) for each in prepared]
    )
    return load(Select, repository / "tiny-select").execute(
        [
            Request({**outputs.arrays, "geometry": image.arrays["geometry"]}, **parameters)
            for image, outputs in zip(prepared, engine)
        ]
    )


def check_detections(response, row, expected):
    arrays, count = response.arrays, len(expected)
    assert response.error is None and arrays["num_detections"][row].tolist() == [count]
    np.testing.assert_array_equal(arrays["boxes"][row, :count], expected.boxes)
    np.testing.assert_array_equal(arrays["scores"][row, :count], expected.scores)
    assert arrays["classes"][row].tolist()[:count] == expected.classes.tolist()
    assert arrays["labels"][row].tolist()[:count] == expected.labels


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 2, 4), (4, 4, 4)])
def test_results_are_the_detectors(triton, engine, batch):
    folder = engine(batch=batch)
    expected = Detector(folder)(IMAGES)
    repository = triton(folder)
    for requests, name in ([image[None] for image in IMAGES], "tiny"), ([files(png(i)) for i in IMAGES], "tiny-file"):
        for response, detections in zip(run_ensemble(repository, requests, name), expected):
            check_detections(response, 0, detections)


def test_results_of_stretched_images_are_the_detectors(triton, engine, edit):
    folder = engine(size=(64, 32), batch=(1, 2, 4))
    edit(folder, lambda manifest: manifest["spec"]["input"].update(resize="stretch"))
    expected = Detector(folder)(IMAGES)
    assert expected[2].boxes.tolist() != Detector(engine(size=(64, 32), name="letterbox"))(IMAGES)[2].boxes.tolist()
    for response, detections in zip(run_ensemble(triton(folder), [image[None] for image in IMAGES]), expected):
        check_detections(response, 0, detections)


def test_the_images_of_one_request_have_rows_of_their_own(triton, engine):
    folder = engine(batch=(1, 2, 4))
    [response] = run_ensemble(triton(folder), [files(*map(png, IMAGES))], "tiny-file")
    for row, detections in enumerate(Detector(folder)(IMAGES)):
        check_detections(response, row, detections)
    assert response.arrays["classes"].tolist() == [[0, 2], [0, -1], [2, -1]]
    assert response.arrays["labels"].tolist()[1] == ["red", ""]


def test_requests_of_different_sizes_share_one_run(triton, engine):
    model = load(RunEngine, triton(engine(batch=(1, 2, 4))) / "tiny-engine")
    sizes, run = [], model.runner.backend
    model.runner.backend = lambda feeds: sizes.append(len(feeds["image"])) or run(feeds)
    one, three = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((3, 64, 64, 3), np.uint8)
    first, second = model.execute([Request({"image": one}), Request({"image": three})])
    assert sizes == [4] and len(first.arrays["boxes"]) == 1 and len(second.arrays["boxes"]) == 3


def test_an_image_that_cannot_be_read_is_the_error_of_its_request_alone(triton, engine):
    prepare = load(Prepare, triton(engine()) / "tiny-file-prepare")
    good, bad = prepare.execute([Request({"image": files(png(scene()))}), Request({"image": files(b"no image")})])
    assert good.error is None and good.arrays["pixels"].shape == (1, 64, 64, 3)
    assert "is no image of a format that is read" in bad.error
    [empty] = prepare.execute([Request({"image": np.zeros((1, 0, 5, 3), np.uint8)})])
    assert "without pixels" in empty.error


def test_a_request_chooses_its_own_threshold_and_classes(triton, engine):
    folder = engine()
    repository, image = triton(folder), [IMAGES[0][None]]
    [response] = run_ensemble(repository, image, threshold="0.8", triton_enable_empty_final_response=False)
    check_detections(response, 0, Detector(folder, threshold=0.8)(IMAGES[0]))
    [response] = run_ensemble(repository, image, classes="blue")
    assert response.arrays["labels"].tolist() == [["blue"]]
    [response] = run_ensemble(repository, image, treshold=0.5)
    assert "unknown option 'treshold'" in response.error
    [response] = run_ensemble(repository, image, threshold=2)
    assert "from 0 to 1" in response.error


def test_the_threshold_of_the_configuration_is_the_default(triton, engine):
    repository = triton(engine())
    config = repository / "tiny-select" / "config.pbtxt"
    assert 'string_value: "0.3"' in config.read_text()
    config.write_text(config.read_text().replace('"0.3"', '"0.85"'))
    [response] = run_ensemble(repository, [IMAGES[0][None]])
    assert response.arrays["labels"].tolist() == [["red"]]


def test_results_are_the_classifiers(triton, engine):
    folder = engine("classification")
    repository = triton(folder)
    [response] = run_ensemble(repository, [IMAGES[0][None]])
    expected = Classifier(folder)(IMAGES[0])
    np.testing.assert_array_equal(response.arrays["scores"][0], expected.scores.astype(np.float32))
    assert response.arrays["labels"][0].tolist() == expected.labels
    [response] = run_ensemble(repository, [IMAGES[0][None]], top=2)
    assert response.arrays["labels"][0].tolist() == expected.labels[:2]


def test_an_engine_of_arrays_answers_as_runner_does(triton, adder):
    rows = json.loads((adder / "manifest.json").read_text())["outputs"]
    rows[1]["shape"] = ["N", 1]
    model = load(RunEngine, triton(change(adder, outputs=rows)) / "adder")
    feeds = [{"x": np.full((n, 3), n, np.float32), "y": np.arange(n, dtype=np.int32)[:, None]} for n in (1, 3)]
    for response, arrays in zip(model.execute(list(map(Request, feeds))), feeds):
        for name, expected in Runner(adder)(arrays).items():
            np.testing.assert_array_equal(response.arrays[name], expected)


def test_one_requests_mistake_does_not_fail_the_others_of_its_run(triton, adder):
    rows = json.loads((adder / "manifest.json").read_text())["outputs"]
    rows[1]["shape"] = ["N", 1]
    model = load(RunEngine, triton(change(adder, outputs=rows)) / "adder")
    y = np.ones((1, 1), np.int32)
    good, bad = model.execute(
        [
            Request({"x": np.ones((1, 3), np.float32), "y": y}),
            Request({"x": np.full((1, 3), np.nan, np.float32), "y": y}),
        ]
    )
    assert good.arrays["sum"].tolist() == [[2, 2, 2]] and "NaN" in bad.error
