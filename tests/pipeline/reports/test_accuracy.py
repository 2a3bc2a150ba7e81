"""The accuracy table: its rows, the split of their images, the nodes that the peers leave in float, the figures."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from effedge.calibration.ranges.samples import list_images
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.engines.build_request import NoSuchPrecisionError
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.reports.accuracy import command, measure
from effedge.pipeline.reports.accuracy.cases import CASES, LocatedCase, locate, split_table
from effedge.pipeline.reports.accuracy.measure import find_peers, run_peer
from effedge.pipeline.reports.accuracy.other_runtimes import evaluate_file
from effedge.pipeline.reports.accuracy.own_process import in_own_process
from effedge.pipeline.reports.accuracy.peers import after_last_layers, onnx_nodes
from effedge.pipeline.reports.accuracy.table import markdown
from effedge.pipeline.request import Checkpoint


@pytest.fixture
def data(tmp_path):
    """A folder like EFFEDGE_DATA's: 500 images of 10 classes in a table, and no bccd/."""
    folder = tmp_path / "data" / "imagenet500"
    folder.mkdir(parents=True)
    for index in range(500):
        (folder / f"{index:04}.jpg").touch()
    (folder / "labels.tsv").write_text("".join(f"{index:04}.jpg\t{index % 10}\n" for index in range(500)))
    return folder.parent


def test_the_split_is_disjoint_whole_and_the_same_each_time(data, tmp_path):
    located = locate(CASES["lite0-imagenet"], data, tmp_path / "lists")
    calibration = {path.name for path in list_images(located.calibration)}
    evaluation = read_data(tmp_path / "lists" / "imagenet500-evaluation.tsv")
    evaluated = {record.path.name for record in evaluation.records}
    assert len(calibration) == 200 and len(evaluated) == 300 and not calibration & evaluated
    assert all(int(record.path.stem) % 10 == record.class_ids[0] for record in evaluation.records)
    again = split_table(data / "imagenet500" / "labels.tsv", tmp_path / "elsewhere", 200)
    assert all(path.read_bytes() == (tmp_path / "lists" / path.name).read_bytes() for path in again)


def test_a_row_whose_data_or_weights_are_missing_is_left_out_with_a_note(data, tmp_path, capsys):
    assert [each.name for each in command.locate_all(list(CASES), None, tmp_path)] == ["d0-digits", "b0-digits"]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert notes[0].startswith("note: lite0-imagenet is left out: ") and "EFFEDGE_DATA" in notes[0]
    assert notes[1].startswith("note: det-lite0-bccd is left out: ") and "EFFEDGE_DATA" in notes[1]

    kept = command.locate_all(list(CASES), data, tmp_path)
    assert [each.name for each in kept] == ["d0-digits", "b0-digits", "lite0-imagenet"]
    assert "bccd/ in the folder" in capsys.readouterr().err
    (data / "bccd").mkdir()
    [kept] = command.locate_all(["det-lite0-bccd"], data, tmp_path)
    assert kept.calibration == data / "bccd" / "train.json" and kept.weights == "bccd" and kept.model == "det-lite0"
    assert kept.evaluation == {f"BCCD {split}": str(data / "bccd" / f"{split}.json") for split in ("val", "test")}


@pytest.fixture
def labelled(tmp_path):
    """A classifier's labelled images: two folders of one image each."""
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        (tmp_path / "labelled" / name).mkdir(parents=True)
        Image.new("RGB", (40, 32), colour).save(tmp_path / "labelled" / name / "0.png")
    return tmp_path / "labelled"


def test_a_row_of_ones_own_is_an_onnx_file_or_a_checkpoint_with_its_images(tmp_path, labelled, monkeypatch):
    measured = []

    def measure(case, *, out, peers, limit):
        measured.append(case)
        return [made_up_row("top-1", fp32=0.5, fp16=0.5, int8=0.5)]

    monkeypatch.setattr(command, "measure", measure)
    images = ["--calibration", str(tmp_path), "--validation", str(labelled)]
    sized = ["--head", "yolox", "--size", "384x640"]
    for own in (["--onnx", "net/tiny.onnx", *sized], ["--model", "b0", "--weights", "b0.safetensors"]):
        monkeypatch.setattr("sys.argv", ["accuracy", *own, *images])
        command.main()
    onnx, checkpoint = measured
    assert (onnx.name, onnx.model, onnx.weights, onnx.source.head) == ("tiny", "tiny", "net/tiny.onnx", "yolox")
    assert onnx.source.size == (384, 640)
    assert (checkpoint.model, checkpoint.weights) == ("b0", "b0.safetensors")
    assert onnx.calibration == tmp_path and onnx.evaluation == {"labelled": str(labelled)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--onnx", "a.onnx", "--model", "b0"], "either --onnx FILE or --model NAME"),
        (["--head", "yolox"], "either --onnx FILE or --model NAME"),
        (["--onnx", "a.onnx", "--weights", "w"], "--weights is not for --onnx"),
        (["--model", "b0", "--weights", "w", "--head", "yolox"], "--head is not for --model"),
        (["--model", "b0", "--weights", "w", "--size", "64"], "--size is not for --model"),
        (["--onnx", "a.onnx", "--calibration", "."], "needs --validation"),
        (["--model", "b0", "--calibration", ".", "--validation", "."], "needs --weights"),
        (["--onnx", "a.onnx", "--calibration", ".", "--validation", "gone.json"], "'gone.json' does not exist"),
    ],
)
def test_half_a_row_is_one_line(options, words, call_main):
    status, _, err = call_main(command.main, *options)
    assert status == 2 and words in err and len(err.strip().splitlines()) == 1


def test_a_peer_that_fails_is_a_note_and_the_table_goes_on(tmp_path, labelled, monkeypatch, caplog):
    """Engines and evaluation are stand-ins; the peer's Python ends with an error."""
    failing = tmp_path / "python"
    failing.write_text(
        "#!/bin/sh\ncase \"$*\" in *--versions) echo '{}';; *) echo no such operator >&2; exit 1;; esac\n"
    )
    failing.chmod(0o755)
    (tmp_path / "inputs.npy").touch()
    (tmp_path / "simplified.onnx").touch()
    evaluated = {"task": "classification", "images": 2, "seconds": 1.0, "figures": {"top-1": 0.5}, "unread": []}
    answers = {
        "run_chain": tmp_path / "int8-cpu",
        "calibration_inputs": tmp_path / "inputs.npy",
        "calibration_report": {"int8_macs": 0.9, "seconds": 3.0, "peak_mib": 10},
        "evaluate_engine": evaluated,
        "evaluate_file": evaluated,
    }
    monkeypatch.setattr(measure, "in_own_process", lambda function, *words, **options: answers[function.__name__])
    monkeypatch.setattr(measure, "parse_manifest", lambda folder: {"spec": {}})
    case = LocatedCase("own", Checkpoint("b0", "b0.safetensors"), labelled / "red", {"labelled": str(labelled)})
    with caplog.at_level("WARNING", "effedge"):
        rows = measure.measure(case, out=tmp_path, peers={"nncf": failing}, limit=None)
    assert "nncf of own is left out" in caplog.text and "no such operator" in caplog.text
    assert rows[0]["peers"]["nncf"].keys() == {"failed"} and "nncf" not in rows[0]["results"]
    assert "nncf failed" in markdown(rows)


def test_a_precision_that_this_cpu_lacks_is_a_note_and_a_dash(tmp_path, labelled, monkeypatch, caplog):
    evaluated = {"task": "classification", "images": 2, "seconds": 1.0, "figures": {"top-1": 0.5}, "unread": []}

    def in_own_process(function, *words, **options):
        if function.__name__ == "run_chain":
            if words[0].precision == "fp16":
                raise NoSuchPrecisionError("this CPU computes in neither")
            return tmp_path / f"{words[0].precision}-{words[0].target.name}"
        return {"int8_macs": 0.9, "seconds": 3.0, "peak_mib": 10} if "report" in function.__name__ else evaluated

    monkeypatch.setattr(measure, "in_own_process", in_own_process)
    monkeypatch.setattr(measure, "parse_manifest", lambda folder: {"spec": {}})
    case = LocatedCase("own", Checkpoint("b0", "b0.safetensors"), labelled / "red", {"labelled": str(labelled)})
    with caplog.at_level("WARNING", "effedge"):
        [row] = measure.measure(case, out=tmp_path, peers={}, limit=None)
    assert "fp16 of own is left out: this CPU" in caplog.text and "fp16" not in row["results"]
    assert "| 50.0 | – | 50.0 |" in markdown([row])


def made_up_row(figure, **figures):
    results = {what: {"figures": {figure: value}} for what, value in figures.items()}
    calibration = {"int8_macs": 0.806, "seconds": 12.4, "peak_mib": 980}
    peers = {"nncf": {"seconds": 31.2, "peak_mib": 700}, "modelopt": {"seconds": 8.7, "peak_mib": 600}}
    return {
        "case": "c", "model": "d0", "weights": "digits", "data": "digits", "figure": figure, "images": 500,
        "calibration": calibration, "peers": peers, "results": results,
    }  # fmt: skip


def test_the_table_gives_points_and_percent_and_a_dash_for_what_was_not_measured():
    rows = [
        made_up_row(
            "AP",
            fp32=0.53,
            fp16=0.5304,
            int8=0.5297,
            int8_onnxruntime=0.5293,
            nncf=0.5,
            onnxruntime=0.0,
            modelopt=0.02,
            modelopt_max=0.01,
            int8_symmetric=0.5287,
        ),
        made_up_row("top-1", fp32=0.97, fp16=0.97, int8=0.9704, int8_onnxruntime=0.97),
        made_up_row("AP", fp32=None, fp16=None, int8=None, int8_onnxruntime=None),
    ]
    head, rule, *lines = markdown(rows).splitlines()
    assert {line.count("|") for line in (head, rule, *lines)} == {head.count("|")}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    assert dict(zip(cells[0], cells[1], strict=True)) == {
        "model, data": "d0, digits, 500 images",
        "figure": "AP 50:95",
        "FP32": "53.0",
        "FP16": "53.0",
        "INT8": "53.0",
        "drop": "0.0",
        "multiply-adds in INT8": "81%",
        "NNCF INT8": "50.0",
        "ONNX Runtime INT8": "0.0",
        "ModelOpt INT8, entropy / max": "2.0 / 1.0",
        "effedge's INT8 on ONNX Runtime": "52.9",
        "without zero points": "52.9",
        "the same on ONNX Runtime": "–",
        "calibration": "12 s, 980 MiB",
        "the others' calibration": "nncf 31 s, 700 MiB; modelopt 9 s, 600 MiB",
    }
    second = dict(zip(cells[0], cells[2], strict=True))
    assert second["drop"] == "0.0", "not -0.0"
    assert second["figure"] == "top-1" and second["NNCF INT8"] == "–" and second["ONNX Runtime INT8"] == "–"
    assert dict(zip(cells[0], cells[3], strict=True))["drop"] == "–"


def test_the_peers_leave_alone_what_is_behind_the_last_weighted_layers_and_nothing_else():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Sigmoid", ["a"], ["b"], "between"),
        helper.make_node("Conv", ["b", "w"], ["classes"], "classes"),
        helper.make_node("Conv", ["b", "w"], ["boxes"], "boxes"),
        helper.make_node("TopK", ["classes", "k"], ["scores", "index"], "best"),
        helper.make_node("Gather", ["boxes", "index"], ["kept"], "gather"),
    ]
    assert after_last_layers(onnx_nodes(nodes)) == ["best", "gather"]
    assert after_last_layers(onnx_nodes([*nodes, helper.make_node("Gemm", ["kept", "w"], ["y"], "last")])) == []


def test_a_peers_python_that_does_not_work_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not run .*--peers"):
        run_peer(tmp_path / "nowhere", ["nncf"])
    with pytest.raises(UserError, match="failed in"):
        run_peer(sys.executable, ["nncf", "--no-such-option"])


def test_each_peer_runs_in_the_first_python_that_has_it_and_the_others_are_noted(tmp_path, caplog):
    def python(name, *peers):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\ncase ' {' '.join(peers)} ' in *\" $2 \"*) ;; *) echo no $2 >&2; exit 1;; esac\n")
        script.chmod(0o755)
        return script

    one, two = python("one", "nncf"), python("two", "nncf", "onnxruntime", "modelopt")
    with caplog.at_level("WARNING", "effedge"):
        assert find_peers([one, two]) == {"nncf": one, "onnxruntime": two, "modelopt": two}
    assert "modelopt_max left out" in caplog.text
    assert find_peers([]) == {}
    with pytest.raises(UserError, match="nncf failed in"):
        find_peers([python("none")])


def test_an_onnx_file_is_evaluated_on_onnx_runtime_as_an_engine_is(tmp_path):
    """A model whose logits are the means of the channels knows the colour of an image."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 32, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [logits]), opset_imports=[opset], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 32), colour).save(tmp_path / "data" / name / "0.png")
    given = {"size": [32, 32], "batch": [1, 1, 1], "interpolation": "bilinear", "resize": "center-crop", "crop": 1.0}
    spec = {"model": "tiny", "task": "classification", "labels": ["red", "green", "blue"], "input": given}
    result = evaluate_file(tmp_path / "model.onnx", {"spec": spec, "backend": {}}, str(tmp_path / "data"), limit=None)
    assert result["images"] == 2 and result["figures"]["top-1"] == 1.0


def fail():
    raise UserError("what is wrong")


def test_a_call_in_a_process_of_its_own_returns_and_raises_as_here():
    assert in_own_process(os.getpid) != os.getpid()
    assert in_own_process(np.add, 1, 2) == 3
    with pytest.raises(UserError, match="what is wrong"):
        in_own_process(fail)


def test_ctrl_c_ends_the_process_too():
    threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        in_own_process(time.sleep, 60)
    assert time.perf_counter() - started < 15 and not multiprocessing.active_children()


def test_the_script_prints_only_the_table_to_stdout_and_writes_all_figures(tmp_path, monkeypatch, capsys):
    def measure(case, *, out, peers, limit):
        log.info("a stage's own line")
        return [made_up_row("AP", fp32=0.5, fp16=0.5, int8=0.5)]

    monkeypatch.setattr(command, "measure", measure)
    out = tmp_path / "figures" / "accuracy.json"
    monkeypatch.setattr("sys.argv", ["accuracy", "d0-digits", "--json", str(out), "--out", str(tmp_path)])
    command.main()
    printed = capsys.readouterr()
    assert all(line.startswith("|") for line in printed.out.splitlines()) and "a stage's own line" in printed.err
    assert json.loads(out.read_text())[0]["results"]["int8"]["figures"]["AP"] == 0.5
    monkeypatch.setattr("sys.argv", ["accuracy", "d9-digits"])
    with pytest.raises(UserError, match="did you mean"):
        command.main()
