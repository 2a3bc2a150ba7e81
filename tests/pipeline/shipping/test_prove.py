"""A proof from the command to the report, on a board that is a folder here, with networks of a few layers.

The chain is a stand-in that saves such a network; everything behind it is real: bundles, install.sh, builds, the proof
on the board, and the report.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto

import effedge
from effedge.deploy.common.files import write_json
from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.pipeline.models.tables import is_detector
from effedge.pipeline.shipping import bundle, prove
from effedge.pipeline.shipping.proof_page import nice
from effedge.pipeline.shipping.proof_report import HEADER, make_report
from effedge.pipeline.shipping.ssh import Board, ConnectionLost
from tests.engines import graphs


def detector(path):
    """Saves a network that finds three boxes; how sure it is depends on the image's mean colour."""
    graph = graphs.Graph()
    image = graph.add("Cast", ["image"], "cast", to=TensorProto.FLOAT)
    mean = graph.add("ReduceMean", [image], "mean", axes=[1, 2], keepdims=0)
    zero = graph.add("Mul", [mean, graph.constant("zero", np.zeros((1, 3), np.float32))], "none")
    share = graph.add("Mul", [mean, graph.constant("share", np.full((1, 3), 0.4 / 255, np.float32))], "share")
    graph.add("Add", [share, graph.constant("least", np.full((1, 3), 0.4, np.float32))], "scores")
    whole = graph.add("Cast", [zero], "whole", to=TensorProto.INT32)
    graph.add("Add", [whole, graph.constant("ids", np.array([[0, 1, 2]], np.int32))], "classes")
    column = graph.add("Unsqueeze", [zero, graph.constant("axis", np.array([2]))], "column")
    boxes = np.array([[[5, 5, 60, 60], [40, 30, 120, 90], [0, 60, 50, 120]]], np.float32)
    graph.add("Add", [column, graph.constant("corners", boxes)], "boxes")
    for node in graph.nodes:
        for number, name in enumerate(node.output):
            node.output[number] = name[:-4] if name in ("boxes_out", "scores_out", "classes_out") else name
    spec = {
        "model": "det-lite0", "weights": "digits", "task": "detection", "labels": list("abc"), "candidates": 3,
        "input": {"size": [128, 128], "batch": [1, 1, 1], "interpolation": "bilinear", "resize": "letterbox",
                  "fill": [0, 0, 0]},
    }  # fmt: skip
    outputs = [("boxes", TensorProto.FLOAT, [1, 3, 4]), ("scores", TensorProto.FLOAT, [1, 3]),
               ("classes", TensorProto.INT32, [1, 3])]  # fmt: skip
    return graph.save(path, [("image", TensorProto.UINT8, [1, 128, 128, 3])], outputs, {"effedge": spec}, opset=17)


def prepared(request):
    """The ONNX that the chain would prepare, packed as the chain does it."""
    checkpoint = request.source
    folder = request.out / f"{checkpoint.model}-{checkpoint.weights}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{request.precision}.onnx"
    if is_detector(checkpoint.model):
        onnx = detector(path)
    else:
        spec = {**graphs.spec(), "weights": checkpoint.weights}
        onnx = graphs.network(path, quantized=request.precision == "int8", opset=17, metadata={"effedge": spec})
    build = BuildRequest(onnx, read_header(onnx), request.precision, request.target, request.build_options)
    return bundle.bundle_stage(build, calibration=request.calibration, proof_images=request.proof_images)


@pytest.fixture
def call(call_main, monkeypatch, tmp_path, board):
    monkeypatch.setattr(prove, "run_chain", prepared)
    monkeypatch.setattr(prove, "DETECTOR_IMAGES", 2)
    monkeypatch.setattr(prove, "CLASSIFIER_IMAGES", 3)
    options = ["--out", tmp_path / "build", "--device-python", sys.executable, "--iterations", 3, "-q"]

    def call(*words):
        return call_main(prove.main, "me@board", *options, *words)

    return call


CPU = ("--target", "cpu-ort", "--precisions", "fp32", "fp16", "int8")
SMALL = (*CPU, "--models", "b0", "--soak", "0")


def report(tmp_path):
    folder = tmp_path / "build" / "prove-board"
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


class Tags(HTMLParser):
    """The tags of a page that are open, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]


def test_the_whole_way(call, board, tmp_path):
    status, out, err = call(*CPU, "--models", "b0", "det-lite0", "--soak", "1.2")
    assert status == 0, out + err
    result, html = report(tmp_path)
    rows = {row["label"]: row for row in result["rows"]}
    assert list(rows) == [
        f"{model} digits {name}" for model in ("b0", "det-lite0") for name in ("fp32", "fp16", "int8")
    ]
    # ONNX Runtime has no FP16 on a CPU, and the detector no INT8 layers: rows with their reasons.
    assert "computes in float32 alone" in rows["b0 digits fp16"]["reason"]
    assert "int8 was asked for" in rows["det-lite0 digits int8"]["reason"]
    assert [label for label, row in rows.items() if row["installed"]] == [
        "b0 digits fp32", "b0 digits int8", "det-lite0 digits fp32",
    ]  # fmt: skip
    int8, found = rows["b0 digits int8"]["proof"], rows["det-lite0 digits fp32"]["proof"]
    assert (int8["agreement"]["images"], int8["agreement"]["top1"]) == (3, 1.0)
    assert (found["agreement"]["images"], found["agreement"]["expected"], found["agreement"]["found"]) == (2, 6, 1.0)
    assert found["agreement"]["iou"] > 0.999 and found["agreement"]["ap"] == 1.0
    assert rows["b0 digits int8"]["beside"] == "fp32"
    assert 0 < int8["race"]["low"] <= int8["race"]["ratio"] <= int8["race"]["high"]
    assert int8["soak"]["seconds"] >= 1.2 and int8["soak"]["runs"] == sum(r["runs"] for r in int8["soak"]["readings"])
    assert [label for label, row in rows.items() if (row["proof"] or {}).get("soak")] == ["b0 digits int8"]
    assert rows["b0 digits int8"]["latency"]["steps"]["engine"]["p99"] > 0
    lines = out.splitlines()
    assert lines[-1] == str(tmp_path / "build/prove-board/report.html")
    assert lines[-2].startswith("| `cpu-ort` | a CPU where OpenVINO does not run | yes, –, yes | run on ")
    assert re.search(r"b0 int8 [\d.]+, fp32 [\d.]+ ms; det-lite0 fp32 [\d.]+ ms \|$", lines[-2])
    assert f"| {' | '.join(HEADER)} |" in lines
    tags = Tags(html)
    assert tags.links == [] and "script" not in tags.seen and "http:" not in html and "https:" not in html
    assert tags.seen.count("svg") == 2 and tags.seen.count("tr") == 7
    assert "Soak: b0 digits int8" in html and "computes in float32 alone" in html


def test_a_second_run_repeats_nothing(call, board, tmp_path):
    assert call(*SMALL)[0] == 0
    before = report(tmp_path)[0]
    status, out, _ = call(*SMALL)
    assert status == 0 and "making" not in out
    assert report(tmp_path)[0] == before


def test_a_run_that_does_not_get_far_leaves_the_finished_rows(call, board, tmp_path, monkeypatch):
    assert call(*SMALL)[0] == 0
    before = report(tmp_path)[0]["rows"]

    def lose(*_):
        raise ConnectionLost("the connection broke")

    monkeypatch.setattr(prove, "run_proof", lose)
    assert call(*SMALL)[0] == 2
    assert report(tmp_path)[0]["rows"] == before and before[-1]["proof"]
    monkeypatch.setattr(prove, "deploy", lose)
    status, _, err = call(*CPU, "--models", "det-lite0", "--soak", "0")
    assert status == 2 and "the connection broke" in err
    assert report(tmp_path)[0]["rows"] == before


def made_row(label="b0 digits int8", proof=None, reason="", **installed):
    given = {"machine": {"cpu": "Arm"}, "l4t": "36.4.3", "backend": {"name": "tensorrt", "version": "10.3.0"}}
    return {"label": label, "reason": reason, "proof": proof, "installed": {**given, **installed}}


@pytest.mark.parametrize(
    ("newer", "stays"),
    [
        (made_row(), True),
        (made_row(latency_ms=2), False),  # another engine, or timed anew
        (made_row(proof={"problems": []}), False),
        (made_row(reason="it is not built"), False),
        (made_row("d0 digits int8"), True),
        (made_row("d0 digits int8", l4t="36.5.0"), False),
        (made_row("d0 digits int8", backend={"name": "tensorrt", "version": "10.7.0"}), False),
        (made_row("d0 digits int8", backend={"name": "tensorrt", "version": "10.3.0", "dla": {}}), True),
    ],
)
def test_an_earlier_row_stays_while_it_is_true(newer, stays):
    earlier = made_row(proof={"problems": ["soak: it broke"]})
    rows = {earlier["label"]: earlier}
    prove.add_row(rows, newer)
    assert (rows.get(earlier["label"]) is earlier) == stays and (rows.get(newer["label"]) is newer or stays)


def test_a_report_of_another_effedge_or_target_is_not_taken_on(tmp_path, monkeypatch):
    plan = SimpleNamespace(target=TARGETS["jetson-orin"])
    path = tmp_path / "report.json"
    write_json(path, {**make_report(plan.target, "me@board", []), "rows": [made_row()]})
    assert list(prove.earlier_rows(path, plan, Board("me@board"))) == ["b0 digits int8"]
    assert prove.earlier_rows(path, SimpleNamespace(target=TARGETS["trt"]), Board("me@board")) == {}
    monkeypatch.setattr(effedge, "__version__", "99")
    assert prove.earlier_rows(path, plan, Board("me@board")) == {}


def test_a_lost_connection_in_the_proof_is_one_line_and_the_next_run_goes_on(call, board, tmp_path, monkeypatch):
    words = (*CPU, "--models", "b0", "--soak", "2")
    monkeypatch.setenv("STOP", "soak: making")
    status, _, err = call(*words)
    assert status == 2 and "the connection to 'me@board' broke" in err.splitlines()[-1]
    monkeypatch.delenv("STOP")
    status, out, _ = call(*words)
    assert status == 0
    assert "race: making" in out or "race: up to date" in out  # watched again from its first line, or over by then
    assert report(tmp_path)[0]["rows"][-1]["proof"]["soak"]["seconds"] >= 2


def test_what_does_not_agree_is_a_row_and_not_the_end(call, board, tmp_path, monkeypatch):
    expected_results = bundle.expected_results

    def other_results(onnx, spec, images, threshold):
        """Those of other images than the self-test's are of another class."""
        records = expected_results(onnx, spec, images, threshold)
        if read_header(onnx).quantized_layers:
            for record in records[1:]:
                record["classes"][0]["class_id"] += 1
        return records

    monkeypatch.setattr(bundle, "expected_results", other_results)
    status, out, _ = call(*SMALL)
    assert status == 0
    [fp32, _, int8] = report(tmp_path)[0]["rows"]
    assert fp32["reason"] == "" and int8["proof"]["agreement"]["top1"] == 0
    assert int8["reason"] == "0% of the best classes are the CPU's, expected 95%"
    assert int8["reason"] in out and '<tr class="failed">' in report(tmp_path)[1]


def test_a_proof_that_ends_without_a_word_is_a_row(call, board, tmp_path, monkeypatch):
    """As a segmentation fault in the backend's library would."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(
        "import os, sys\nif any('proof.prove' in word for word in sys.orig_argv): os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "planted"))
    status, _, _ = call(*SMALL)
    assert status == 0
    rows = report(tmp_path)[0]["rows"]
    assert [bool(row["installed"]) for row in rows] == [True, False, True]
    assert all(row["reason"].startswith("on 'me@board': ") and row["proof"] is None for row in rows if row["installed"])


def test_where_nothing_can_be_installed_it_says_so(call, board, tmp_path):
    status, _, err = call("--target", "cpu-ort", "--precisions", "fp16", "--models", "b0")
    assert status == 2
    assert err.splitlines()[-1].startswith("error: nothing could be installed on 'me@board' (")
    assert "computes in float32 alone" in report(tmp_path)[0]["rows"][0]["reason"]


def test_the_board_is_asked_for_its_target(call, board, tmp_path, monkeypatch):
    monkeypatch.setattr(prove, "prove", lambda plan, _: pytest.exit(plan.target.name))
    with pytest.raises(pytest.exit.Exception, match=r"^(cpu|trt)$"):
        call("--models", "b0")
    assert not (board / "effedge" / ".probe").exists()


def test_a_board_with_a_dla_has_a_case_more_for_each_precision_of_the_dla(tmp_path):
    target = prove.TARGETS["jetson-orin"]
    plan = prove.Plan([], ["fp32", "fp16", "int8"], target, tmp_path, None, prove.BuildOptions(), "python3", 0)
    labels = [case.label for case in prove.cases(plan, prove.Checkpoint("d0"))]
    assert labels == ["d0 fp32", "d0 fp16", "d0 int8", "d0 fp16 on the DLA", "d0 int8 on the DLA"]
    without = replace(plan, target=prove.TARGETS["jetson-thor"])
    assert not any(case.dla for case in prove.cases(without, prove.Checkpoint("d0")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--soak", "-1"], "expected seconds, 0 or more"),
        (["--iterations", "0"], "expected 1 or more"),
        (["--models", "d9"], "unknown model 'd9'"),
        (["--precisions", "fp8"], "unknown precision 'fp8'"),
        (["--target", "orin"], "unknown target 'orin'"),
        (["--target", "cpu", "--dla", "only"], "leave --dla out"),
    ],
)
def test_mistakes_are_one_line_before_any_work(call, board, words, message):
    status, out, err = call(*words)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert not (board / "arguments").exists()


def test_the_charts_scale_ends_at_a_round_number():
    assert [nice(value) for value in (0.4, 1, 1.01, 23, 99, 501)] == [0.5, 1, 2, 50, 100, 1000]


def test_make_passes_its_variables(tmp_path):
    fake = tmp_path / "bin" / "effedge"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    command = ["make", "-s", "-C", str(bundle.ROOT), f"BIN={fake.parent}", "INSTALLED=", "prove", "HOST=me@board"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert plain == ["prove", "me@board", "--target", "auto", "--out", "build", "--ssh-options="]
    more = ["MODELS=d0 lite0:imagenet", "SOAK=60", "TARGET=jetson-orin", "SSH_OPTIONS=-p 22", "DEVICE_PYTHON=py"]
    words = subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
    assert (
        "--models d0 lite0:imagenet --soak 60 --target jetson-orin" in words
        and "--ssh-options=-p 22 --device-python py" in words
    )
