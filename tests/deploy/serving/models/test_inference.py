"""KServe's v2 protocol: what it describes, and that its answers are the runtime's, as JSON and as binary data."""

import json

import numpy as np
import pytest

from effedge import Classifier, Detector, Runner
from tests.deploy.scenes import png, scene

HEADER = "Inference-Header-Content-Length"


def infer(running, content, name="tiny"):
    return running.client.post(f"/v2/models/{name}/infer", json=content)


def image_input(*images):
    array = np.stack(images)
    return {"name": "image", "datatype": "UINT8", "shape": list(array.shape), "data": array.reshape(-1).tolist()}


def outputs_of(content):
    """The outputs of a response without binary data, by name, as nested lists of their shape."""
    arrays = {}
    for output in content["outputs"]:
        values = np.array(output["data"], object).reshape(output["shape"])
        arrays[output["name"]] = values.tolist()
    return arrays


def test_the_server_and_the_model_are_described(serve, build):
    running = serve(build())
    assert running.client.get("/v2").json()["name"] == "effedge"
    assert running.client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert running.client.get("/v2/health/live").json()["live"] is True
    assert running.client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    described = running.client.get("/v2/models/tiny").json()
    assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert [output["name"] for output in described["outputs"]] == [
        "num_detections",
        "boxes",
        "scores",
        "classes",
        "labels",
    ]


def test_the_answer_is_the_detectors_result(serve, build):
    folder = build(batch=(1, 2, 4))
    running = serve(folder)
    images = [scene(), scene(red=(11, 12, 50, 60), blue=None), scene(red=None, blue=None)]
    answer = infer(running, {"id": "42", "inputs": [image_input(*images)]})
    content = answer.json()
    assert answer.status_code == 200 and (content["id"], content["model_name"]) == ("42", "tiny")
    assert [each["datatype"] for each in content["outputs"]] == ["INT32", "FP32", "FP32", "INT32", "BYTES"]
    found = outputs_of(content)
    expected = Detector(folder)(images)
    assert found["num_detections"] == [2, 1, 0]
    for row, detections in enumerate(expected):
        count = len(detections)
        assert found["boxes"][row][:count] == detections.boxes.tolist()
        assert found["scores"][row][:count] == detections.scores.tolist()
        assert found["classes"][row][:count] == detections.classes.tolist()
        assert found["labels"][row][:count] == detections.labels
        assert found["classes"][row][count:] == [-1] * (2 - count)


def test_stretched_images_have_the_detectors_boxes(serve, build, edit):
    folder = build(size=(64, 32))
    edit(folder, lambda manifest: manifest["spec"]["input"].update(resize="stretch"))
    image = scene(200, 96, red=(12, 50, 48, 150), blue=None)
    found = outputs_of(infer(serve(folder), {"inputs": [image_input(image)]}).json())
    assert found["boxes"] == [Detector(folder)(image).boxes.tolist()]
    np.testing.assert_allclose(found["boxes"], [[[12, 50, 48, 150]]], atol=3.2)  # a pixel of the input


def test_parameters_select_and_outputs_are_chosen(serve, build):
    running = serve(build())
    request = {"inputs": [image_input(scene())], "outputs": [{"name": "labels"}], "parameters": {"threshold": 0.8}}
    content = infer(running, request).json()
    assert content["outputs"] == [{"name": "labels", "shape": [1, 1], "datatype": "BYTES", "data": ["red"]}]
    assert "id" not in content


def test_binary_data_go_both_ways(serve, build):
    """The example of the extension's documentation, with these tensors."""
    folder = build()
    running = serve(folder)
    image = scene()
    entry = {"name": "image", "datatype": "UINT8", "shape": [1, *image.shape]}
    entry["parameters"] = {"binary_data_size": image.nbytes}
    outputs = [{"name": "boxes", "parameters": {"binary_data": True}}, {"name": "num_detections"}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    answer = running.client.post(
        "/v2/models/tiny/infer", content=head + image.tobytes(), headers={HEADER: str(len(head))}
    )
    length = int(answer.headers[HEADER])
    content, rest = json.loads(answer.content[:length]), answer.content[length:]
    assert content["outputs"][0] == {
        "name": "boxes",
        "shape": [1, 2, 4],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 32},
    }
    assert content["outputs"][1]["data"] == [2]
    assert np.array_equal(np.frombuffer(rest, "<f4").reshape(2, 4), Detector(folder)(image).boxes)


def test_files_are_taken_as_binary_bytes(serve, build):
    running = serve(build())
    file = png(scene())
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4 + len(file)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    body = head + len(file).to_bytes(4, "little") + file
    answer = running.client.post("/v2/models/tiny/infer", content=body, headers={HEADER: str(len(head))})
    assert answer.status_code == 200
    assert answer.content.endswith(b"\3\0\0\0red\4\0\0\0blue")


def test_tritons_client_reads_it(serve, build):
    """Another implementation of the protocol, by those who wrote it."""
    client = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    folder = build(batch=(1, 1, 4))
    running = serve(folder)
    triton = client.InferenceServerClient(running.url[len("http://") :])
    assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready("tiny")
    assert triton.get_model_metadata("tiny")["platform"] == "openvino_ir"
    images = np.stack([scene(), scene(red=(11, 12, 50, 60))])
    expected = Detector(folder)(list(images))
    for binary in (True, False):
        tensor = client.InferInput("image", list(images.shape), "UINT8").set_data_from_numpy(images, binary_data=binary)
        wanted = [client.InferRequestedOutput(name, binary_data=binary) for name in ("boxes", "labels")]
        result = triton.infer("tiny", [tensor], outputs=wanted)
        assert np.array_equal(result.as_numpy("boxes"), np.stack([each.boxes for each in expected]))
        labels = [[getattr(label, "decode", lambda same=label: same)() for label in row]
                  for row in result.as_numpy("labels").tolist()]  # fmt: skip
        assert labels == [each.labels for each in expected]


def test_a_classifier_gives_scores_classes_and_labels(serve, build):
    folder = build("classification")
    running = serve(folder)
    image = scene(64, 64, (0, 0, 64, 32), None)
    found = outputs_of(infer(running, {"inputs": [image_input(image)], "parameters": {"top": 3}}).json())
    best = Classifier(folder, top=3)(image)
    assert found["labels"] == [best.labels] and found["classes"] == [best.classes.tolist()]
    assert found["scores"] == [best.scores.tolist()]


def test_an_engine_that_takes_arrays_has_its_own_inputs_and_outputs(serve, adder):
    running = serve(adder)
    described = running.client.get("/v2/models/adder").json()
    assert described["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[10], [20]], np.int32)
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": x.tolist()},  # nested, and flat
        {"name": "y", "datatype": "INT32", "shape": [2, 1], "data": [10, 20]},
    ]
    content = infer(running, {"inputs": inputs}, "adder").json()
    expected = Runner(adder)({"x": x, "y": y})
    assert outputs_of(content) == {name: array.tolist() for name, array in expected.items()}
    assert infer(running, {"inputs": inputs[:1]}, "adder").status_code == 400
    assert running.client.post("/detect", content=png(scene())).status_code == 404


GOOD = image_input(scene(2, 2, None, None))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "no JSON"),
        ([], "expected an object"),
        ({}, "inputs is null"),
        ({"inputs": [3]}, "an input is 3"),
        ({"inputs": []}, "inputs [] were given"),
        ({"inputs": [GOOD], "id": 3}, "id is 3"),
        ({"inputs": [GOOD, GOOD]}, "twice"),
        ({"inputs": [{**GOOD, "name": "x"}]}, "['x'] were given, expected ['image']"),
        ({"inputs": [{**GOOD, "datatype": "UINT9"}]}, "'UINT9'"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, "FP32 [1, 2, 2, 3], expected UINT8"),
        ({"inputs": [{**GOOD, "datatype": "BYTES"}]}, "binary_data_size"),
        ({"inputs": [{**GOOD, "shape": [1, 2, 3, 3]}]}, "shape [12], its shape is [1, 2, 3, 3]"),
        ({"inputs": [{**GOOD, "shape": [1, 4, 3], "data": [0] * 12}]}, "UINT8 [1, 4, 3], expected"),
        ({"inputs": [{**GOOD, "shape": [1, -2, -2, 3]}]}, "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [1] * 9}]}, "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [0, 2, 2, 3], "data": []}]}, "N 1"),
        ({"inputs": [{**GOOD, "shape": [1, 0, 2, 3], "data": []}]}, "without pixels"),
        ({"inputs": [{**GOOD, "shape": [2, 1, 2, 3]}]}, "N 1"),
        ({"inputs": [{**GOOD, "data": [0] * 11 + [256]}]}, "0 to 255"),
        ({"inputs": [{**GOOD, "data": [0] * 11 + [0.5]}]}, "no UINT8"),
        ({"inputs": [{**GOOD, "data": [0] * 11 + ["1"]}]}, "no UINT8"),
        ({"inputs": [{**GOOD, "data": [[0], [0, 1]]}]}, "the data of input 'image' are no"),
        ({"inputs": [{**GOOD, "data": "abc"}]}, "expected an array"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3]}]}, "has no data"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 12}}]}, "expected as many bytes, and no data"),
        ({"inputs": [GOOD], "outputs": [{"name": "masks"}]}, "output 'masks'"),
        ({"inputs": [GOOD], "parameters": {"treshold": 1}}, "'treshold'"),
        ({"inputs": [GOOD], "parameters": {"threshold": "high"}}, "expected a number"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "true or false"),
    ],
)
def test_a_request_that_breaks_the_protocol_is_a_line_of_json(serve, build, content, words):
    running = serve(build())
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = running.client.post("/v2/models/tiny/infer", content=body)
    assert answer.status_code == 400 and words in answer.json()["error"]
    assert "\n" not in answer.json()["error"] and len(answer.json()["error"]) < 300


@pytest.mark.parametrize("length", ["-1", "x", "99999999"])
def test_a_wrong_length_of_the_header_is_refused(serve, build, length):
    running = serve(build())
    answer = running.client.post("/v2/models/tiny/infer", content=b"{}", headers={HEADER: length})
    assert answer.status_code == 400 and HEADER in answer.json()["error"]


@pytest.mark.parametrize(
    ("size", "data", "words"),
    [
        (11, bytes(11), "11 bytes of binary data, UINT8 [1, 2, 2, 3] takes 12"),
        (12, bytes(11), "11 bytes behind the JSON"),
        (12, bytes(13), "1 bytes are left"),
        (-1, bytes(12), "-1"),
    ],
)
def test_binary_data_of_another_size_are_refused(serve, build, size, data, words):
    running = serve(build())
    entry = {**GOOD, "parameters": {"binary_data_size": size}}
    del entry["data"]
    head = json.dumps({"inputs": [entry]}).encode()
    answer = running.client.post("/v2/models/tiny/infer", content=head + data, headers={HEADER: str(len(head))})
    assert answer.status_code == 400 and words in answer.json()["error"]
