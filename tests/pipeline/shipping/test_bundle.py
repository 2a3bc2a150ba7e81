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
from effedge.engines.build_options import BuildOptions
from effedge.engines.targets import TARGETS
from effedge.pipeline.shipping import bundle
from effedge.pipeline.shipping.bundle import bundle_stage
from tests.engines import graphs

CPU, ORT = TARGETS["cpu"], TARGETS["cpu-ort"]


def make(folder, precision="int8", target=ORT, **options):
    folder.mkdir(exist_ok=True)
    onnx = graphs.network(folder / "int8.onnx", quantized=precision == "int8", opset=17)
    return bundle_stage(onnx, precision=precision, target=target, **options)


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
    assert bundle_stage(archive.parent / "int8.onnx", precision="int8", target=ORT) == archive


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
    refused(install(root), "jetson-orin (Orin, JetPack 6.1 or 6.2), and this machine is no Jetson")
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
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
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
        bundle_stage(graphs.network(tmp_path / "bare.onnx", metadata={}), precision="fp32", target=CPU)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_shows_both_commands():
    shown = subprocess.run(
        ["make", "-n", "deploy", "HOST=me@board", "TARGET=jetson-orin", "PYTHON=true"],
        cwd=bundle.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--target 'jetson-orin'" in shown and "--until bundle" in shown
    assert "'me@board' --ssh-options=" in shown
