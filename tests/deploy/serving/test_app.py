"""The service answers as the runtime does, and refuses what it cannot use, with the right status and one line."""

import io
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from effedge import Classifier, Detector
from tests.deploy.scenes import png, scene
from tests.deploy.serving.conftest import wait_until


def test_detect_answers_what_the_detector_finds(serve, build):
    folder, image = build(), scene()
    running = serve(folder)
    expected = Detector(folder)(image).to_dict()
    assert [each["label"] for each in expected["detections"]] == ["red", "blue"]
    answer = running.client.post("/detect", content=png(image), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200 and answer.json() == expected
    assert running.client.post("/detect", files={"any": ("name.png", png(image), "image/png")}).json() == expected
    curls = {"Content-Type": "application/x-www-form-urlencoded"}
    assert running.client.post("/detect", content=png(image), headers=curls).json() == expected
    steps = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"])
    assert [name for name, _ in steps] == ["decode", "prepare", "queue", "engine", "select"]
    assert all(0 <= float(ms) < 20_000 for _, ms in steps)


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ("threshold=0.8", ["red"]),
        ("threshold=0.95", []),
        ("max_detections=1", ["red"]),
        ("classes=blue", ["blue"]),
        ("classes=2,1", ["blue"]),
        ("classes=red&classes=blue", ["red", "blue"]),
        ("class_agnostic=true&iou=0.5", ["red", "blue"]),
    ],
)
def test_the_query_selects_as_the_detectors_options_do(serve, build, query, labels):
    running = serve(build())
    answer = running.client.post(f"/detect?{query}", content=png(scene()))
    assert [each["label"] for each in answer.json()["detections"]] == labels
    plain = running.client.post("/detect", content=png(scene()))
    assert len(plain.json()["detections"]) == 2  # a request's options are its own


def test_another_threshold_than_the_one_of_the_gpus_nms_selects_on_the_cpu(serve, build):
    """A fused detector's output `kept` is NMS's result for the detector's own options."""
    running = serve(build())
    infer = running.model.engine.infer

    def fused(batch):
        outputs = infer(batch)
        return {**outputs, "kept": np.full((len(outputs["scores"]), 100), -1)}  # nothing

    running.model.engine.infer = fused
    assert running.client.post("/detect", content=png(scene())).json()["detections"] == []
    answer = running.client.post("/detect?threshold=0.2", content=png(scene())).json()
    assert [each["label"] for each in answer["detections"]] == ["red", "blue"]


def test_a_classifier_answers_its_best_classes(serve, build):
    folder = build("classification")
    running = serve(folder)
    image = scene(64, 64, (0, 0, 64, 64), None)
    assert running.client.post("/detect", content=png(image)).json() == Classifier(folder)(image).to_dict()
    assert len(running.client.post("/detect?top=2", content=png(image)).json()["classes"]) == 2


def test_several_models_are_told_apart_by_name(serve, build):
    running = serve(build(), build("classification", name="other"), build(name="third"))
    assert list(running.models) == ["tiny", "tiny-cpu", "tiny-cpu-2"]
    assert "classes" in running.client.post("/detect?model=tiny-cpu", content=png(scene())).json()
    assert "detections" in running.client.post("/detect", content=png(scene())).json()


def large_png():
    file = io.BytesIO()
    Image.new("L", (9000, 8000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("request_of", "status", "words"),
    [
        (lambda client: client.post("/detect", content=b"no image"), 400, "is no image"),
        (lambda client: client.post("/detect"), 400, "has no image"),
        (lambda client: client.post("/detect", content=png(scene())[:200]), 400, "cannot read the image"),
        (lambda client: client.post("/detect", data={"a": "b"}, files={}), 400, "is no image"),
        (lambda client: client.post("/detect", files={"a": b"", "b": b""}), 400, "2 files, expected one"),
        (lambda client: client.post("/detect", files={"a": b""}), 400, "has no image"),
        (
            lambda client: client.post(
                "/detect", content=b"--x\r\nbroken", headers={"Content-Type": "multipart/form-data"}
            ),
            400,
            "no files",
        ),
        (lambda client: client.post("/detect", json={"image": "..."}), 415, "application/json"),
        (lambda client: client.post("/detect", content=bytes(1 << 20)), 413, "more than 0.5 MiB"),
        (lambda client: client.post("/detect", content=iter([bytes(1 << 20)])), 413, "more than 0.5 MiB"),
        (lambda client: client.post("/detect", content=large_png()), 413, "72 million"),
        (lambda client: client.post("/detect?model=d9", content=b"x"), 404, "'d9'"),
        (lambda client: client.post("/detect?threshold=2", content=png(scene())), 400, "threshold=2.0"),
        (lambda client: client.post("/detect?threshold=x", content=png(scene())), 400, "expected a number"),
        (lambda client: client.post("/detect?threshold=nan", content=png(scene())), 400, "threshold=nan"),
        (lambda client: client.post("/detect?classes=cat", content=png(scene())), 400, "'cat'"),
        (lambda client: client.post("/detect?max_detections=0", content=png(scene())), 400, "max_detections=0"),
        (lambda client: client.post("/detect?tresh=1", content=png(scene())), 400, "'tresh': expected threshold"),
        (lambda client: client.get("/detect"), 405, "POST /detect"),
        (lambda client: client.get("/nothing"), 404, "POST /detect"),
        (lambda client: client.get("/v2/models/d9"), 404, "'d9'"),
        (lambda client: client.post("/v2/models/d9/infer"), 404, "'d9'"),
    ],
)
def test_an_error_is_a_line_of_json_with_its_status(serve, build, request_of, status, words):
    running = serve(build(), body_bytes=1 << 19)
    answer = request_of(running.client)
    assert answer.status_code == status and words in answer.json()["error"]
    assert "\n" not in answer.json()["error"] and len(answer.json()["error"]) < 300
    assert running.client.post("/detect", content=png(scene())).status_code == 200  # it goes on


def test_of_seventeen_clients_at_once_one_is_refused_and_none_is_lost(serve, build, hold):
    running = serve(build(), places=16)
    held = hold(running.model)
    image = png(scene())
    with ThreadPoolExecutor(17) as pool:
        posts = [pool.submit(running.client.post, "/detect", content=image) for _ in range(17)]
        wait_until(lambda: any(post.done() for post in posts))
        [refused] = [post.result() for post in posts if post.done()]
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
        assert running.client.get("/v2/health/ready").status_code == 200  # what computes nothing needs no place
        held.release()
        answers = [post.result() for post in posts]
    assert sorted(answer.status_code for answer in answers) == [200] * 16 + [429]
    assert {len(answer.json()["detections"]) for answer in answers if answer.status_code == 200} == {2}
    assert running.service.admission.taken == 0


def test_a_refused_client_that_sends_a_large_body_sees_the_refusal(serve, build, hold):
    running = serve(build(), places=1, body_bytes=4 << 20)
    held = hold(running.model)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.client.post, "/detect", content=png(scene()))
        wait_until(lambda: held.sizes == [1])
        for size in (3 << 20, 6 << 20):
            with half_sent(running.url, bytes(size), all_of_it=True) as connection:  # reads nothing before it has sent
                assert connection.recv(100).startswith(b"HTTP/1.1 429 ")
        held.release()
        assert first.result().status_code == 200


def test_requests_that_wait_share_a_batch(serve, build, hold):
    running = serve(build(batch=(1, 2, 4)), batch_ms=1)
    held = hold(running.model)
    images = [png(scene(red=(10 * number, 0, 10 * number + 30, 50))) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        posts = [pool.submit(running.client.post, "/detect", content=images[0])]
        wait_until(lambda: held.sizes == [1])
        posts += [pool.submit(running.client.post, "/detect", content=image) for image in images[1:]]
        wait_until(lambda: running.model.batcher.waiting.qsize() == 5)
        held.release()
        answers = [post.result().json()["detections"] for post in posts]
    assert [answer[0]["box"][0] for answer in answers] == pytest.approx([10.0 * n for n in range(6)], abs=2)
    assert held.sizes == [1, 4, 1]


def test_at_the_deadline_a_request_is_refused_and_its_work_is_dropped(serve, build, hold):
    running = serve(build(), seconds=0.3)
    held = hold(running.model)
    with ThreadPoolExecutor(2) as pool:
        posts = [pool.submit(running.client.post, "/detect", content=png(scene())) for _ in range(2)]
        answers = [post.result() for post in posts]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert "in time" in answers[0].json()["error"] and answers[0].headers["Retry-After"]
    held.release()
    running.service.close()
    assert held.sizes == [1]  # the second never ran


def test_a_body_that_does_not_come_is_given_up(serve, build):
    running = serve(build(), seconds=0.3)
    with half_sent(running.url) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    assert running.service.admission.taken == 0


def test_where_the_client_goes_away_its_work_is_dropped(serve, build, hold):
    running = serve(build())
    held = hold(running.model)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.client.post, "/detect", content=png(scene()))
        wait_until(lambda: held.sizes == [1])
        with half_sent(running.url, png(scene()), all_of_it=True):
            wait_until(lambda: running.model.batcher.waiting.qsize() == 1)
        wait_until(lambda: running.service.admission.taken == 1)
        held.release()
        assert first.result().status_code == 200
    running.service.close()
    assert held.sizes == [1]


def half_sent(url, body=b"x" * 100, all_of_it=False):
    """A connection that has sent a request to detect, and half of its body."""
    host, port = url[len("http://") :].split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[: len(body) if all_of_it else len(body) // 2])
    return connection


def test_more_requests_a_second_than_the_rate_are_refused(serve, build):
    running = serve(build(), rate=2)
    statuses = [running.client.post("/detect", content=png(scene())).status_code for _ in range(4)]
    assert statuses.count(429) >= 1 and statuses[:2] == [200, 200]
    time.sleep(0.6)
    assert running.client.post("/detect", content=png(scene())).status_code == 200


def test_an_engine_that_fails_is_not_ready_until_it_works_again(serve, build, capsys):
    running = serve(build())
    infer = running.model.engine.infer

    def fail(_):
        raise RuntimeError("device lost")

    running.model.engine.infer = fail
    answer = running.client.post("/detect", content=png(scene()))
    assert answer.status_code == 500 and "RuntimeError" in answer.json()["error"]
    assert "device lost" in capsys.readouterr().err  # with its traceback
    assert running.client.get("/v2/health/ready").status_code == 503
    assert running.client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": False}
    running.model.engine.infer = infer
    assert running.client.post("/detect", content=png(scene())).status_code == 200
    assert running.client.get("/v2/health/ready").status_code == 200


def test_values_that_are_not_finite_are_the_services_error(serve, build):
    running = serve(build())
    infer = running.model.engine.infer
    running.model.engine.infer = lambda batch: {**infer(batch), "scores": np.full((1, 3), np.nan, np.float32)}
    answer = running.client.post("/detect", content=png(scene()))
    assert answer.status_code == 500 and "not finite" in answer.json()["error"]


def test_metrics_count_requests_steps_and_batches(serve, build):
    running = serve(build(batch=(1, 1, 4)))
    for content in (png(scene()), png(scene()), b"no image"):
        running.client.post("/detect", content=content)
    text = running.client.get("/metrics").text
    assert 'effedge_requests_total{path="/detect",status="200"} 2.0' in text
    assert 'effedge_requests_total{path="/detect",status="400"} 1.0' in text
    assert 'effedge_step_seconds_count{model="tiny",step="engine"} 2.0' in text
    assert 'effedge_batch_images_sum{model="tiny"} 2.0' in text
    assert "effedge_places 16.0" in text and "effedge_requests_under_way 0.0" in text
    assert "process_resident_memory_bytes" in text


def test_the_event_loop_answers_while_an_image_is_decoded(serve, build, monkeypatch):
    from effedge.deploy.serving.models import image_model

    running = serve(build())
    read, begun, go_on = image_model.to_rgb, threading.Event(), threading.Event()

    def slow(source):
        begun.set()
        go_on.wait(10)
        return read(source)

    monkeypatch.setattr(image_model, "to_rgb", slow)
    with ThreadPoolExecutor(1) as pool:
        post = pool.submit(running.client.post, "/detect", content=png(scene()))
        assert begun.wait(10)
        assert running.client.get("/v2/health/live").json() == {"live": True}
        go_on.set()
        assert post.result().status_code == 200
