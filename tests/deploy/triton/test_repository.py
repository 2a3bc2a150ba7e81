"""Repositories: that their models fit together as Triton demands, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.scenes import png, scene
from tests.deploy.triton.conftest import change

pytest.importorskip("google.protobuf", minversion="4.22", reason="protobuf 4.22 or later is not installed")
from tests.deploy.triton.model_config import DATA_TYPES, KINDS, read  # noqa: E402

NAMES = ["tiny", "tiny-engine", "tiny-file", "tiny-file-prepare", "tiny-prepare", "tiny-select"]
ROOT = Path(__file__).resolve().parents[3]
RELU = b"\x3a\x08\x0a\x06\x22\x04Relu"


def tensors(messages, full=False, batching=True):
    return {each.name: (DATA_TYPES[each.data_type], [-1] * (full and batching) + list(each.dims)) for each in messages}


def alike(first, second):
    """As Triton's CompareDimsWithWildcard: -1 fits any size."""
    return len(first) == len(second) and all(a == b or -1 in (a, b) for a, b in zip(first, second))


def check_ensemble(configs, name):
    """What Triton's ensemble_utils.cc validates: all tensors of each step are mapped, types and shapes agree with and
    without the batch, and no step takes fewer images than the ensemble."""
    ensemble = configs[name]
    known = {key: (kind, [-1, *dims]) for key, (kind, dims) in tensors(ensemble.input).items()}
    results = tensors(ensemble.output)
    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        batching = config.max_batch_size > 0
        assert not batching or config.max_batch_size >= ensemble.max_batch_size
        inputs, outputs = (tensors(each, True, batching) for each in (config.input, config.output))
        assert {entry.key for entry in step.input_map} == set(inputs)
        assert {entry.key for entry in step.output_map} == set(outputs)
        for entry in step.input_map:
            assert known[entry.value][0] == inputs[entry.key][0], entry
            assert alike(known[entry.value][1], inputs[entry.key][1]), entry
        known.update({entry.value: outputs[entry.key] for entry in step.output_map})
    for key, (kind, dims) in results.items():
        assert known[key] == (kind, [-1, *dims])


@pytest.mark.parametrize(
    ("task", "batch"), [("detection", (1, 1, 1)), ("detection", (1, 2, 4)), ("classification", (1, 4, 32))]
)
def test_the_models_of_a_repository_fit_together(triton, engine, task, batch):
    repository = triton(engine(task, batch=batch))
    configs = read(repository)
    assert list(configs) == NAMES and all(config.name == name for name, config in configs.items())
    for name in ("tiny", "tiny-file"):
        check_ensemble(configs, name)
        assert configs[name].max_batch_size == configs["tiny-engine"].max_batch_size == batch[2]
    assert tensors(configs["tiny"].input) == {"image": ("TYPE_UINT8", [-1, -1, 3])}
    assert tensors(configs["tiny-file"].input) == {"image": ("TYPE_STRING", [1])}
    for name in NAMES:
        present = sorted(path.name for path in (repository / name / "1").iterdir())
        assert present, "an empty folder is lost on the way through git or a bucket"


def test_results_are_those_of_effedge_serve(triton, engine):
    from effedge.deploy.serving.models.inference import CLASSES

    configs = read(triton(engine()))
    assert list(tensors(configs["tiny"].output)) == ["num_detections", "boxes", *(name for name, _ in CLASSES)]


def test_a_batch_is_filled_to_the_usual_size_within_the_wait(triton, engine):
    folder = engine(batch=(1, 2, 4))
    config = read(triton(folder, "--batch-wait", "7.5", "--instances", "3"))["tiny-engine"]
    assert list(config.dynamic_batching.preferred_batch_size) == [2]
    assert config.dynamic_batching.max_queue_delay_microseconds == 7500
    assert [(KINDS[group.kind], group.count) for group in config.instance_group] == [("KIND_CPU", 3)]


def test_an_engine_for_one_image_has_no_dynamic_batching(triton, engine):
    assert not read(triton(engine()))["tiny-engine"].HasField("dynamic_batching")


def test_labels_are_files_a_line_each_and_a_gap_is_its_number(triton, engine):
    repository = triton(engine(labels=["red", None, "blue\nsky"]))
    for name in ("tiny", "tiny-file"):
        assert (repository / name / "labels.txt").read_text() == "red\n1\nblue sky\n"
    repository = triton(engine("classification", name="second"))
    [logits] = read(repository)["tiny-engine"].output
    assert logits.label_filename == "labels.txt" and (repository / "tiny-engine" / "labels.txt").is_file()


def test_an_engine_of_arrays_is_one_model(triton, adder):
    manifest = json.loads((adder / "manifest.json").read_text())
    manifest["outputs"][1]["shape"] = ["N", 1]
    configs = read(triton(change(adder, outputs=manifest["outputs"])))
    assert list(configs) == ["adder"] and configs["adder"].max_batch_size == 4
    assert tensors(configs["adder"].input) == {"x": ("TYPE_FP32", [3]), "y": ("TYPE_INT32", [1])}
    manifest["outputs"][1]["shape"] = ["N"]  # Triton's dims are never empty
    [_, twice] = read(triton(change(adder, outputs=manifest["outputs"])))["adder"].output
    assert list(twice.dims) == [1] and twice.HasField("reshape") and not twice.reshape.shape
    manifest["outputs"][1]["shape"] = [1]  # one number for all rows: Triton cannot batch it
    config = read(triton(change(adder, outputs=manifest["outputs"])))["adder"]
    assert config.max_batch_size == 0 and tensors(config.input)["x"] == ("TYPE_FP32", [-1, 3])


def test_a_plan_is_served_by_tensorrts_backend_on_every_gpu(triton, as_runtime):
    repository = triton(as_runtime("tensorrt", batch=(1, 4, 8)))
    configs = read(repository)
    check_ensemble(configs, "tiny")
    config = configs["tiny-engine"]
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "", 8)
    assert (repository / "tiny-engine" / "1" / "model.plan").read_bytes() == b"plan"
    assert [KINDS[group.kind] for group in config.instance_group] == ["KIND_GPU"]
    assert not config.instance_group[0].gpus
    assert "RELEASE_WITH_TENSORRT_10.13.3.9-py3" in triton.printed and "--gpus all" in triton.printed
    assert "untested" in triton.errors


def test_a_plan_for_a_dla_names_its_core(triton, as_runtime):
    config = read(triton(as_runtime("tensorrt", dla={"core": 1, "mode": "fallback", "on_gpu": []})))["tiny-engine"]
    [device] = config.instance_group[0].secondary_devices
    assert (device.kind, device.device_id) == (0, 1)


def test_a_plan_of_tensorrt_rtx_is_run_by_effedge_on_the_first_gpu(triton, as_runtime):
    config = read(triton(as_runtime("tensorrt_rtx")))["tiny-engine"]
    assert config.backend == "python" and list(config.instance_group[0].gpus) == [0]
    assert "tensorrt-rtx==10.13.3.9" in triton.printed


def test_a_fixed_batch_of_an_onnx_is_in_its_shape(triton, as_runtime):
    """Triton's onnxruntime backend, CompareDimsSupported: a batch needs a first dimension of -1."""
    folder = as_runtime("onnxruntime", "engine.onnx", RELU)
    repository = triton(folder, "--backend", "onnxruntime")
    configs = read(repository)
    check_ensemble(configs, "tiny")
    config = configs["tiny-engine"]
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
    assert tensors(config.input) == {"image": ("TYPE_UINT8", [1, 64, 64, 3])}
    assert (repository / "tiny-engine" / "1" / "model.onnx").read_bytes() == RELU


def test_a_dynamic_batch_of_an_onnx_is_batched(triton, as_runtime):
    folder = as_runtime("onnxruntime", "engine.onnx", RELU, batch=(1, 2, 4))
    config = read(triton(folder, "--backend", "onnxruntime"))["tiny-engine"]
    assert config.max_batch_size == 4 and tensors(config.input) == {"image": ("TYPE_UINT8", [64, 64, 3])}


def test_the_weights_beside_an_onnx_come_along(triton, tmp_path, as_runtime):
    onnx = pytest.importorskip("onnx")
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], b"\0" * 8, raw=True)
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.ClearField("raw_data")
    weights.external_data.add(key="location", value="sub/w.bin")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["w"], ["y"])], "g", [], [], [weights])
    folder = as_runtime("onnxruntime", "engine.onnx", onnx.helper.make_model(graph).SerializeToString())
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(b"12345678")
    repository = triton(folder, "--backend", "onnxruntime")
    assert (repository / "tiny-engine" / "1" / "sub" / "w.bin").read_bytes() == b"12345678"


def onnx_node(operator: bytes, given: bytes, made: bytes) -> bytes:
    """ModelProto.graph.node with input, output and op_type."""
    node = b"".join(bytes([tag, len(text)]) + text for tag, text in ((0x0A, given), (0x12, made), (0x22, operator)))
    return bytes([0x3A, len(node) + 2, 0x0A, len(node)]) + node


PAD = onnx_node(b"Pad", b"x", b"padded")


def test_an_image_that_calibration_padded_is_served(triton, as_runtime):
    folder = as_runtime("onnxruntime", "engine.onnx", PAD + onnx_node(b"Add", b"padded", b"y"))
    assert isinstance(triton(folder, "--backend", "onnxruntime"), Path)


def test_what_onnx_runtime_computes_otherwise_in_triton_is_refused(triton, as_runtime):
    padded = as_runtime("onnxruntime", "engine.onnx", PAD + onnx_node(b"MaxPool", b"padded", b"y"))
    assert "has a Pad" in triton(padded, "--backend", "onnxruntime")
    assert "--backend python" in triton(change(padded, backend={"name": "onnxruntime", "fp8": True}),
                                        "--backend", "onnxruntime")  # fmt: skip
    assert isinstance(triton(padded), Path)


def test_an_engine_that_needs_several_images_is_refused_but_for_python(triton, as_runtime, engine):
    assert "no fewer than 2 images" in triton(as_runtime("tensorrt", batch=(2, 2, 4)))
    assert isinstance(triton(engine(batch=(2, 2, 4), name="second")), Path)


def test_another_runtimes_backend_is_refused(triton, engine):
    assert "runs on openvino, which --backend tensorrt cannot run: give --backend python" in triton(
        engine(), "--backend", "tensorrt"
    )


def test_a_tensor_that_triton_has_no_type_for_is_refused(triton, adder):
    assert "'twice' is of unknown rank" in triton(adder)
    rows = json.loads((adder / "manifest.json").read_text())["outputs"]
    rows[1]["shape"] = []
    assert "'twice' is a number without a shape" in triton(change(adder, outputs=rows))
    rows[1].update(shape=["N", 1], dtype="bfloat16")
    assert "'twice' is bfloat16" in triton(change(adder, outputs=rows))


def test_a_path_that_is_no_engine_is_an_error_of_one_line(triton, engine, tmp_path):
    assert "does not exist" in triton(tmp_path / "nowhere")
    folder = engine()
    (folder / "engine.bin").write_bytes(b"other")
    assert "SHA-256 differs" in triton(folder)


def test_only_a_repository_of_effedge_is_replaced(triton, engine, tmp_path):
    folder = engine()
    repository = triton(folder)
    cache = repository / "tiny-select" / "1" / "__pycache__"  # Triton's Python writes it
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"")
    second = triton(engine(name="second", labels=["a", "b", "c"]))
    assert second == repository and (repository / "tiny" / "labels.txt").read_text() == "a\nb\nc\n"
    (repository / "tiny" / "notes.txt").write_text("mine")
    assert "did not write what is in it ('tiny/notes.txt')" in triton(folder)
    assert (repository / "tiny" / "notes.txt").is_file()


def test_an_engine_is_not_replaced_by_its_repository(triton, engine, tmp_path):
    folder = engine()
    assert "is an engine" in triton(folder, out=folder.name)
    assert (folder / "engine.xml").is_file()


def test_ctrl_c_leaves_nothing_behind(triton, engine, tmp_path, monkeypatch):
    from effedge.deploy.triton import repository

    monkeypatch.setattr(repository, "write_labels", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    folder = engine()
    assert triton(folder).startswith("interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing_behind(triton, engine, tmp_path, monkeypatch):
    from effedge.deploy.triton import repository

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository, "write_labels", fail)
    folder = engine()
    assert "No space left on device" in triton(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_engines_share_a_repository_under_names_of_their_own(triton, engine):
    repository = triton(engine(), engine(name="second"))
    names = {path.name for path in repository.iterdir() if path.is_dir()}
    assert names == {*NAMES, *(name.replace("tiny", "tiny-cpu") for name in NAMES)}
    check_ensemble(read(repository), "tiny-cpu-file")


def test_a_signature_comes_along_and_a_changed_engine_is_refused(triton, engine, tmp_path, monkeypatch):
    folder = engine()
    (folder / ".signature.json").write_text("{}")
    repository = triton(folder)
    assert (repository / "tiny-engine" / "1" / "engine" / ".signature.json").read_text() == "{}"
    monkeypatch.setenv("EFFEDGE_TRUSTED_KEYS", str(tmp_path / "key.pub"))
    assert "key.pub" in triton(folder)


SCRIPT = """
import pathlib, runpy, sys
root, work = sys.argv[1], sys.argv[2]
sys.path[:] = [path for path in sys.path if path and pathlib.Path(path).resolve() != pathlib.Path(root)]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
namespace = runpy.run_path(root + "/tests/deploy/triton/fake_backend.py", run_name="fake_backend")
namespace["install"]()
def model(name):
    args = namespace["arguments"](pathlib.Path(work) / name)
    before = list(sys.path)
    for module in [module for module in sys.modules if module.split(".")[0] == "effedge"]:
        del sys.modules[module]
    loaded = runpy.run_path(str(pathlib.Path(work) / name / "1" / "model.py"))["TritonPythonModel"]()
    assert sys.modules["effedge"].__file__.startswith(str(pathlib.Path(work) / name)), sys.modules["effedge"].__file__
    sys.path[:] = before
    loaded.initialize(args)
    return loaded
def ask(name, arrays):
    [response] = model(name).execute([namespace["Request"](arrays)])
    assert response.error is None, response.error
    return response.arrays
prepared = ask("tiny-file-prepare", {"image": namespace["files"](pathlib.Path(sys.argv[3]).read_bytes())})
outputs = ask("tiny-engine", {"image": prepared["pixels"]})
results = ask("tiny-select", {**outputs, "geometry": prepared["geometry"]})
print(results["boxes"].tolist(), results["labels"].tolist())
"""


def test_python_models_need_no_effedge_beside_them(triton, engine, tmp_path):
    repository = triton(engine())
    (tmp_path / "image.png").write_bytes(png(scene(64, 64, red=(10, 12, 30, 40), blue=None)))
    words = [sys.executable, "-B", "-c", SCRIPT, str(ROOT), str(repository), str(tmp_path / "image.png")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[[10.0, 12.0, 30.0, 40.0]]] [['red']]\n"
