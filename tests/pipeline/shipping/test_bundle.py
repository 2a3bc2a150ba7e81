"""A bundle from pack to installed, on this machine: what is in it, that it is always the same, and what it refuses.

The model is a small classifier of the engines' tests; install.sh runs as on a device, in a folder of its own, with
nothing of ours on the path.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.engines import install as install_module
from effedge.engines.build_options import DEFAULT, BuildOptions
from effedge.engines.build_request import BuildRequest
from effedge.engines.device import DetectedDevice
from effedge.engines.installation.candidate import MADE_HERE
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.pipeline.shipping import bundle
from effedge.pipeline.shipping.bundle import bundle_stage
from tests.engines import graphs

CPU, ORT = TARGETS["cpu"], TARGETS["cpu-ort"]


def make(folder, precision="int8", target=ORT, **options):
    folder.mkdir(exist_ok=True)
    onnx = graphs.network(folder / "int8.onnx", quantized=precision == "int8", opset=17)
    return pack(onnx, precision, target, **options)


def pack(onnx, precision, target, build_options=DEFAULT, ranges=None, **images):
    return bundle_stage(BuildRequest(onnx, read_header(onnx), precision, target, build_options, ranges), **images)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "net")


def unpack(archive, folder):
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    [root] = folder.iterdir()
    return root


@pytest.fixture
def root(archive, tmp_path):
    return unpack(archive, tmp_path / "board")


def install(root, *words, **environment):
    """install.sh, started from another folder."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        ["sh", str(root / "install.sh"), "--iterations", "2", *words], cwd=root.parent, capture_output=True, text=True,
        check=False, env={**clean, "PYTHON": sys.executable, "PYTHONSAFEPATH": "", **environment},
    )  # fmt: skip


def test_it_holds_all_that_the_device_needs_and_the_hash_of_each(root):
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    sums = dict(reversed(line.split("  ")) for line in (root / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == files - {"SHA256SUMS"}
    assert all(hashlib.sha256((root / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    wanted = {"install.sh", "bundle.json", "model/model.onnx", "selftest/image.png", "selftest/expected.json"}
    assert (
        wanted
        | {"effedge/deploy/predict.py", "effedge/engines/build.py", "effedge/engines/install.py", "effedge/__main__.py"}
        <= files
    )
    assert not any(
        "__pycache__" in name or name.startswith(("effedge/pipeline", "effedge/calibration")) for name in files
    )
    content = json.loads((root / "bundle.json").read_text())
    assert content["labels"] == graphs.spec()["labels"]
    assert (content["name"], content["precision"], content["target"]) == ("net-int8-cpu-ort", "int8", "cpu-ort")


def test_what_was_chosen_of_the_build_is_for_the_device(tmp_path):
    made = make(
        tmp_path / "net",
        target=TARGETS["jetson-orin"],
        build_options=BuildOptions(workspace_mib=512, optimization_level=1),
    )
    content = json.loads((unpack(made, tmp_path / "board") / "bundle.json").read_text())
    assert content["build_options"] == ["--workspace-mib", "512", "--optimization-level", "1"]


def test_where_int8_may_not_build_plan_b_comes_too(tmp_path):
    """TensorRT 8.5 may have no kernel for the two depthwise convolutions of the network."""
    root = unpack(make(tmp_path / "net", target=TARGETS["jetson-orin-jp5"]), tmp_path / "board")
    plan_a, plan_b = read_header(root / "model/model.onnx"), read_header(root / "model/fallback.onnx")
    left = {node.outputs[0] for node in plan_a.quantized_layers} - {node.outputs[0] for node in plan_b.quantized_layers}
    assert (len(plan_a.quantized_layers), len(plan_b.quantized_layers)) == (3, 1)
    assert left == {"conv1_out", "conv3_out"} and plan_b.spec == plan_a.spec
    sums = (root / "SHA256SUMS").read_text()
    assert "model/fallback.onnx" in sums and sums.count("\n") == sum(path.is_file() for path in root.rglob("*")) - 1


def test_plan_b_comes_for_no_other_precision_or_target(root, tmp_path):
    assert not (root / "model/fallback.onnx").exists()
    fp16 = make(tmp_path / "net", precision="fp16", target=TARGETS["jetson-orin-jp5"])
    assert not (unpack(fp16, tmp_path / "fp16") / "model/fallback.onnx").exists()


def test_a_bundle_for_the_dla_has_a_name_of_its_own(tmp_path):
    target = TARGETS["jetson-orin-jp5"]
    names = [
        make(tmp_path / "net", precision="fp16", target=target, build_options=BuildOptions(dla=dla)).name
        for dla in ("", "fallback")
    ]
    assert names == ["net-fp16-jetson-orin-jp5.tar.gz", "net-fp16-jetson-orin-jp5-dla.tar.gz"]


def test_int8_by_ranges_comes_with_the_ranges_and_the_device_builds_by_them(tmp_path, monkeypatch):
    cache = tmp_path / "int8.cache"
    cache.write_text("TRT-8601-EntropyCalibration2\nimage: 3f800000\n")
    onnx = graphs.network(tmp_path / "int8-float.onnx", opset=17)
    archive = pack(onnx, "int8", TARGETS["jetson-orin"], BuildOptions(dla="fallback"), cache)
    root = unpack(archive, tmp_path / "board")
    assert (root / "model/calibration.cache").read_text() == cache.read_text()
    called = []
    monkeypatch.setattr(install_module, "call", lambda *words: called.append(words))
    monkeypatch.chdir(root)
    content = json.loads((root / "bundle.json").read_text())
    install_module.build(content, DetectedDevice(TARGETS["jetson-orin"], "10.3.0", None))
    [words] = called
    assert words[-4:] == ("--ranges", "model/calibration.cache", "--dla", "fallback")
    first = archive.read_bytes()
    cache.write_text("TRT-8601-EntropyCalibration2\nimage: 3f000000\n")
    assert pack(onnx, "int8", TARGETS["jetson-orin"], BuildOptions(dla="fallback"), cache).read_bytes() != first


def test_a_proof_has_images_with_their_results_and_a_name_of_its_own(tmp_path):
    archive = make(tmp_path / "net", proof_images=3)
    assert archive.name == make(tmp_path / "net").name.replace(".tar.gz", "-proof.tar.gz")
    root = unpack(archive, tmp_path / "board")
    names = [path.name for path in sorted((root / "proof/images").iterdir())]
    assert names == ["000.png", "001.png", "002.png"]
    records = json.loads((root / "proof/expected.json").read_text())
    images = [bundle.open_image(root / "proof/images" / name) for name in names]
    assert bundle.expected_results(root / "model/model.onnx", graphs.spec(), images, None) == records
    assert len({image.tobytes() for image in [*images, bundle.open_image(root / "selftest/image.png")]}) == 4


def test_the_images_of_a_proof_may_be_the_calibrations_and_are_scaled_down(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 2048, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    metadata = {"effedge": {**graphs.spec(), "weights": "mine"}}
    onnx = graphs.network(tmp_path / "mine.onnx", quantized=True, opset=17, metadata=metadata)
    archive = pack(onnx, "int8", ORT, calibration=folder, proof_images=2)
    root = unpack(archive, tmp_path / "board")
    images = [bundle.open_image(path) for path in sorted((root / "proof/images").iterdir())]
    assert [image.shape for image in images] == [(20, 1024, 3)] * 2
    expected = bundle.scaled_down(bundle.open_image(folder / "2.png"))  # evenly spread: the first and the third
    np.testing.assert_array_equal(images[1], expected)


def with_weights_in(onnx, name):
    """Moves the weights of an ONNX into a file of the name, beside it."""
    from onnx import external_data_helper, load, save

    model = load(onnx)
    external_data_helper.convert_model_to_external_data(model, location=name, size_threshold=0)
    (onnx.parent / name).parent.mkdir(parents=True, exist_ok=True)
    save(model, onnx)
    return onnx


def test_weights_of_their_own_come_under_their_name(tmp_path):
    onnx = with_weights_in(graphs.network(tmp_path / "int8.onnx", quantized=True, opset=17), "sub/all weights.bin")
    root = unpack(pack(onnx, "int8", ORT), tmp_path / "board")
    assert (root / "model/sub/all weights.bin").read_bytes() == (tmp_path / "sub/all weights.bin").read_bytes()
    assert install(root).returncode == 0


@pytest.mark.parametrize(
    "name", ["model.onnx", "Model.onnx", "fallback.onnx", "calibration.cache", "model.onnx/w", "a\nb", "a\\b", "\udc80"]
)
def test_weights_named_like_another_file_of_the_bundle_are_refused(tmp_path, name):
    """An installation would take them for the model, for plan B or for the ranges, or could not check them."""
    onnx = graphs.network(tmp_path / "int8.onnx", quantized=True, opset=17)
    if name == "\udc80":  # no UTF-8: the name stands in the ONNX by its byte
        with_weights_in(onnx, "1")
        onnx.write_bytes(onnx.read_bytes().replace(b"location\x12\x011", b"location\x12\x01\x80"))
        (tmp_path / "1").rename(tmp_path / name)
    else:
        with_weights_in(onnx, name)
    with pytest.raises(UserError, match="a name that a bundle cannot have"):
        bundle.model_files(onnx, install_module.MODEL)


def test_nothing_on_the_device_needs_the_hosts_packages(root):
    """tqdm, torch, onnx and so on must not be missed: they are made not to import."""
    code = "import sys; sys.modules.update(dict.fromkeys(('tqdm', 'torch', 'onnx', 'onnx_ir', 'effedge.pipeline')))\n"
    names = [path.relative_to(root).with_suffix("").as_posix() for path in Path(root / "effedge/engines").rglob("*.py")]
    modules = [name.replace("/", ".") for name in names if not name.endswith("__init__")]
    done = subprocess.run(
        [sys.executable, "-c", code + "import " + ", ".join(modules)], cwd=root, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_same_inputs_make_the_same_archive(archive, tmp_path):
    again = make(tmp_path / "net")
    assert again.read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as files:
        entries = files.getmembers()
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, 0, "")}


def test_a_second_call_packs_nothing(archive, monkeypatch):
    monkeypatch.setattr(bundle, "write_bundle", lambda *_, **__: pytest.fail("packed again"))
    assert pack(archive.parent / "int8.onnx", "int8", ORT) == archive


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory):
    root = unpack(archive, tmp_path_factory.mktemp("installed"))
    return root, install(root)


def test_it_builds_tests_and_times_and_says_what_it_got(installed):
    root, done = installed
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("install: net-int8-cpu-ort on onnxruntime")
    assert any(line.startswith("self-test: passed, the class of ONNX Runtime") for line in lines)
    assert lines[-2].startswith("install: net-int8-cpu-ort runs here: engine p50 ")
    assert lines[-1] == str(root / "engine")
    got = json.loads((root / "installed.json").read_text())
    assert got["built_for"] == "cpu-ort" and got["self_test"]["score"] < 1e-4
    assert (
        got["latency_ms"]["engine"]["p50"] == json.loads((root / "latency.json").read_text())["steps"]["engine"]["p50"]
    )
    assert json.loads((root / "engine" / "manifest.json").read_text())["precision"]["asked"] == "int8"


def test_a_second_run_skips_what_is_done(installed):
    root, _ = installed
    before = (root / "engine" / "engine.onnx").stat().st_mtime_ns
    done = install(root)
    assert done.returncode == 0
    assert [line.split(",")[0] for line in done.stdout.splitlines() if "up to date" in line] == [
        f"{stage}: up to date" for stage in ("engine", "self-test", "latency")
    ]
    assert (root / "engine" / "engine.onnx").stat().st_mtime_ns == before


def test_another_device_makes_everything_anew(installed):
    root, _ = installed
    device = json.loads((root / "device.json").read_text())
    (root / "device.json").write_text(json.dumps({**device, "version": "1.0"}))
    done = install(root)
    assert done.returncode == 0 and "this device or its backend has changed" in done.stdout
    assert "up to date" not in done.stdout


def refused(done, message):
    """One line, exit status 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["model/model.onnx", "effedge/engines/install.py", "bundle.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_refused_by_name(root, name, damage):
    if damage == "changed":
        content = bytearray((root / name).read_bytes())
        content[len(content) // 2] ^= 1
        (root / name).write_bytes(content)
    else:
        (root / name).unlink()
    refused(install(root), f"error: '{name}' is missing or not the file that was packed")
    assert not (root / "engine").exists()


def test_without_the_list_of_hashes_it_is_refused(root):
    (root / "SHA256SUMS").unlink()
    refused(install(root), "SHA256SUMS is missing")


def test_the_wrong_device_is_refused(tmp_path):
    root = unpack(make(tmp_path / "net", target=TARGETS["jetson-orin"]), tmp_path / "board")
    refused(install(root), "this machine is no Jetson")
    assert not (root / "engine").exists()


def test_without_python_it_is_refused(root, tmp_path):
    refused(install(root, PYTHON="python4"), "there is no 'python4' here: install Python 3.8")
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.6.9\nexit 1\n')
    old.chmod(0o755)
    refused(install(root, PYTHON=str(old)), "is Python 3.6.9, expected Python 3.8 or later")


def test_a_wrong_option_is_refused(root):
    refused(install(root, "--iterations", "0"), "expected 1 or more")


def reseal(root):
    """The hashes of a folder that was changed on purpose."""
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = [path.as_posix() for path in files]
    sums = [
        f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names if name != "SHA256SUMS"
    ]
    (root / "SHA256SUMS").write_text("".join(sums))


def test_an_engine_that_finds_something_else_is_refused(root):
    path = root / "selftest" / "expected.json"
    expected = json.loads(path.read_text())
    expected["classes"][0]["score"] += 0.5
    path.write_text(json.dumps(expected))
    reseal(root)
    done = install(root)
    refused(done, "the engine does not find what ONNX Runtime")
    assert not (root / "installed.json").exists()


@pytest.fixture
def changed(installed, tmp_path):
    """An installed bundle, over which another one of the same name was unpacked: its ONNX has other weights."""
    before, _ = installed
    root = shutil.copytree(before, tmp_path / "board" / before.name)
    graphs.network(root / "model" / "model.onnx", quantized=True, opset=17, seed=1)
    reseal(root)
    return root


def files_of(root):
    """The contents of what an installation makes."""
    made = [*(root / "engine").rglob("*"), *(root / str(name) for name in MADE_HERE)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in made if path.is_file()}


def not_agreeing(root):
    """The outcome of the first network is expected, and the second is here."""
    return {}, "the engine does not find what"


def not_built(root):
    (root / "model" / "model.onnx").write_bytes(b"none")
    reseal(root)
    return {}, "is no whole ONNX model"


def no_space(root):
    return planted(root, "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"), "No space left on device"


def killed_build(root):
    return planted(root, "os.kill(os.getpid(), 9)"), "ended with signal 9"


def planted(root, fault):
    """The environment in which a build ends by `fault` where it writes its manifest."""
    code = f"""
import errno, os, pathlib
write_text = pathlib.Path.write_text
def write(self, *words, **more):
    if self.name == "manifest.json":
        {fault}
    return write_text(self, *words, **more)
pathlib.Path.write_text = write
"""
    folder = root.parent / "planted"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("fault", [not_agreeing, not_built, no_space, killed_build])
def test_what_fails_leaves_the_earlier_engine_and_says_so(changed, fault):
    before = files_of(changed)
    environment, message = fault(changed)
    done = install(changed, **environment)
    refused(done, message)
    assert done.stderr.endswith("; the earlier engine stays\n")
    assert files_of(changed) == before


def test_an_engine_that_did_not_agree_is_not_built_again(changed):
    assert "engine: making candidate/engine" in install(changed).stdout
    assert "engine: up to date, candidate/engine" in install(changed).stdout


def test_an_engine_that_passed_takes_the_place_of_the_earlier_one(changed):
    before = files_of(changed)
    model = changed / "model" / "model.onnx"
    image = bundle.open_image(changed / "selftest" / "image.png")
    [record] = bundle.expected_results(model, graphs.spec(), [image], None)
    (changed / "selftest" / "expected.json").write_text(json.dumps(record))
    outputs = bundle.expected_outputs(model, graphs.spec(), image)
    (changed / "selftest" / "outputs.npz").write_bytes(bundle.as_npz(outputs))
    reseal(changed)
    done = install(changed)
    assert done.returncode == 0, done.stderr
    after = files_of(changed)
    assert after.keys() == before.keys() and after["engine/engine.onnx"] != before["engine/engine.onnx"]
    assert json.loads(after["latency.json"])["engine"]["folder"] == "engine"
    assert not (changed / "candidate").exists() and not (changed / "earlier-engine").exists()


def test_what_a_step_refuses_is_the_one_line(root):
    (root / "model" / "model.onnx").write_bytes(b"none")
    reseal(root)
    refused(install(root), "is no whole ONNX model")


def test_the_image_may_be_the_users(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    root = unpack(make(tmp_path / "net", image=tmp_path / "mine.png"), tmp_path / "board")
    with Image.open(root / "selftest" / "image.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_model_that_the_target_cannot_take_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="jetson-nano cannot take .*opset 17, but the parser of jetson-nano reads at most 13"
    ):
        make(tmp_path / "net", precision="fp32", target=TARGETS["jetson-nano"])


def test_a_model_that_says_nothing_of_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not say how it wants images"):
        pack(graphs.network(tmp_path / "bare.onnx", metadata={}), "fp32", CPU)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_shows_both_commands():
    shown = subprocess.run(
        ["make", "-n", "deploy", "HOST=me@board", "TARGET=jetson-orin", "PYTHON=true"],
        cwd=bundle.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert '--target "$TARGET"' in shown and "--until bundle" in shown
    assert '"$HOST" --ssh-options=' in shown
