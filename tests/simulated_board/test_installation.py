"""The device side in one go, on simulated boards of JetPack 5.1, 6.2 and 7.2, and on an emulated aarch64.

`make deploy` packs the bundle and copies it; install.sh checks the board, builds, tests and times the engine there; the
figures come back; the engine predicts there. JetPack's Python, NumPy and Pillow are real on the native boards, aarch64
on the emulated one, with Debian's versions.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effedge.calibration.tensorrt_cache import cache_text
from effedge.deploy.image.iou import iou_matrix
from effedge.engines.build_options import BuildOptions
from effedge.engines.comparison.compare import LEAST
from effedge.engines.onnx_header import read_header
from tests.deploy.keys import write_keys
from tests.engines import graphs
from tests.pipeline.shipping.test_prove import detector
from tests.simulated_board.board import (
    JETPACK_51,
    JETPACK_62,
    JETPACK_62_ARM64,
    JETPACK_72,
    KINDS,
    MODULES,
    ROOT,
    set_version,
)
from tests.simulated_board.bundles import quick_bundle, small_bundle
from tests.simulated_board.conftest import deploy, engine_digest, environment, error_of, predict

pytestmark = pytest.mark.slow
MODES = {"jetpack-5.1": "MODE_15W", "jetpack-6.2": "MAXN_SUPER", "jetpack-7.2": "120W"}
RELEASES = {"jetpack-5.1": "R35.4.1", "jetpack-6.2": "R36.4.3", "jetpack-7.2": "R39.2.0"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of the host's artefacts: a model is exported once for all boards."""
    return tmp_path_factory.mktemp("build")


@pytest.mark.parametrize("kind", [*KINDS, JETPACK_62_ARM64], ids=lambda kind: kind.name)
def test_make_deploy_installs_a_detector_and_brings_its_figures_back(kind, start, out):
    board = start(kind)
    words = ["MODEL=d0", "WEIGHTS=digits", "PRECISION=fp16", f"TARGET={kind.target}", f"OUT={out}", "HOST=nvidia@board"]
    venv = Path(sys.prefix)
    make = ["make", "deploy", *words, f"VENV={venv}"]
    done = subprocess.run(make, cwd=ROOT, env=environment(board), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    release = kind.name.replace("-aarch64", "")

    folder = out / "d0-digits" / f"d0-digits-fp16-{kind.target}@board"
    installed = json.loads((folder / "installed.json").read_text())
    assert (installed["built_for"], installed["backend"]["version"]) == (kind.target, kind.tensorrt)
    assert installed["convolutions"]["f16"] > 100 and installed["self_test"]["expected"] > 3
    latency = json.loads((folder / "latency.json").read_text())
    assert latency["steps"]["engine"]["p50"] > 0 and latency["throughput"] is not None
    facts = latency["board"]["after"]
    assert (facts["l4t"], facts["power_mode"]["name"]) == (RELEASES[release], MODES[release])
    assert facts["temperatures_c"]
    log = (folder / "install.log").read_text()
    assert f"CUDA called by {'pycuda' if kind.pycuda else 'libcuda'}" in log
    assert ("letterbox and NMS run on the CPU" in log) == (not kind.nvcc)
    assert "runs without a CUDA graph" not in log

    archive = out / "d0-digits" / f"d0-digits-fp16-{kind.target}.tar.gz"
    found = predict(board, archive)[0]["detections"]
    content = board.run(f"cat effedge/{archive.name[:-7]}/selftest/expected.json").stdout
    assert_same_detections(json.loads(content)["detections"], found)


def assert_same_detections(expected, found):
    """Each sure detection has its counterpart: the same class, IoU of 0.95, scores within 0.05."""
    sure = [row for row in expected if row["score"] > 0.5]
    assert len(sure) > 3
    overlaps = iou_matrix(np.array([row["box"] for row in sure]), np.array([row["box"] for row in found]))
    for row, overlap in zip(sure, overlaps, strict=True):
        counterpart = found[int(np.argmax(overlap))]
        assert overlap.max() > 0.95 and counterpart["class_id"] == row["class_id"]
        assert abs(counterpart["score"] - row["score"]) < 0.05


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_board_has_the_pythons_and_packages_of_its_jetpack(kind, start):
    board = start(kind)
    packages = "(numpy, PIL, tensorrt)"
    code = f"import sys, numpy, PIL, tensorrt; print(sys.version_info[:2], *(x.__version__ for x in {packages}))"
    version, packages = kind.distribution
    numbers = [name.split("==")[1] for name in packages]
    expected = f"({version.replace('.', ', ')}) {' '.join(numbers)} {kind.tensorrt}\n"
    assert board.run(f'python3 -c "{code}"').stdout == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_int8_is_built_and_a_second_deployment_makes_nothing_anew(kind, start, tmp_path):
    board, archive = start(kind), small_bundle(tmp_path / "net", kind.target)
    first = deploy(board, archive)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "3 int8" in first.stdout.splitlines()[-2], first.stdout
    decibels = int(re.search(r"all outputs within (\d+) dB", first.stdout)[1])
    assert decibels >= LEAST["int8"]
    digest, builds = engine_digest(board, archive), board.gpu.builds
    second = deploy(board, archive)
    assert second.returncode == 0 and "copy: up to date" in second.stdout and "engine: up to date" in second.stdout
    assert (engine_digest(board, archive), board.gpu.builds) == (digest, builds)


@pytest.mark.parametrize("kind", [*KINDS, JETPACK_62_ARM64], ids=lambda kind: kind.name)
def test_a_board_with_a_pinned_key_takes_only_signed_bundles(kind, start, tmp_path):
    board = start(kind)
    private, public = write_keys(tmp_path, "ours")
    first = small_bundle(tmp_path / "first" / "net", kind.target)
    second = small_bundle(tmp_path / "second" / "net", kind.target, seed=1)
    done = deploy(board, first, "--key", str(private))
    assert done.returncode == 0 and "takes only bundles signed by" in done.stdout, done.stdout + done.stderr
    assert board.run("cat effedge/.trusted/key.pub").stdout == public.read_text()
    before = engine_digest(board, first)
    assert "is not signed" in error_of(deploy(board, second))
    assert engine_digest(board, first) == before
    board.run("cd effedge/net*; printf x >> model/model.onnx")
    assert "is not the file that was packed" in error_of(deploy(board, first))
    by_hand = board.run("cd effedge/net* && sh install.sh")
    assert by_hand.returncode == 2 and "is not the file that was packed" in by_hand.stderr
    done = deploy(board, second, "--key", str(private))
    assert done.returncode == 0 and engine_digest(board, second) != before, done.stdout + done.stderr


def test_a_batch_of_two_to_four_is_installed(start, tmp_path):
    board = start(JETPACK_62)
    archive = small_bundle(tmp_path / "net", JETPACK_62.target, batch=(1, 2, 4))
    done = deploy(board, archive)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((archive.parent / "net-int8-jetson-orin@board/manifest.json").read_text())
    assert manifest["batch"] == [1, 2, 4]


def test_the_builder_shows_its_progress_from_tensorrt_10_on(start, tmp_path):
    """On 8.5 there is no IProgressMonitor, and the build goes without."""
    for kind in (JETPACK_51, JETPACK_72):
        board = start(kind)
        assert board.run('python3 -c "import tensorrt; tensorrt.IProgressMonitor"').returncode == (kind is JETPACK_51)
        assert deploy(board, small_bundle(tmp_path / kind.name, kind.target)).returncode == 0


def test_after_an_upgrade_of_jetpack_the_engine_says_so_and_is_built_anew(start, tmp_path):
    board, archive = start(JETPACK_62), small_bundle(tmp_path / "net", JETPACK_62.target)
    assert deploy(board, archive).returncode == 0
    set_version(board.files / MODULES[1:], "10.3.1")
    done = board.run(f"cd effedge/{archive.name[:-7]} && python3 -m effedge predict engine selftest/image.png")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "TensorRT 10.3.1 on Orin cannot load" in done.stderr and "Version tag does not match" in done.stderr
    done = deploy(board, archive)
    assert done.returncode == 0 and "everything is made anew" in done.stdout
    assert predict(board, archive)


def test_one_process_loads_engine_after_engine(start, tmp_path):
    """TensorRT 8 keeps a pointer to the first logger of the process; that one must outlive its engine."""
    board, archive = start(JETPACK_51), small_bundle(tmp_path / "net", JETPACK_51.target)
    assert deploy(board, archive).returncode == 0
    dropped = "import tensorrt as t; L = type('L', (t.ILogger,), {}); t.Runtime(L()); t.Runtime(L())"
    assert board.run(f'python3 -c "{dropped}"').returncode == 128 + signal.SIGSEGV
    twice = "import effedge; [list(effedge.Classifier('engine')(['selftest/image.png'])) for _ in range(3)]"
    done = board.run(f'cd effedge/{archive.name[:-7]} && python3 -c "{twice}"')
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_program_of_the_readme_ends_well_and_frees_in_order(kind, start, tmp_path):
    """Its detector lives until the end of the program, which must not take the CUDA context away first
    (inducer/pycuda#460, NVIDIA/TensorRT#1632)."""
    board = start(kind)
    (tmp_path / "net").mkdir()
    archive = quick_bundle(detector(tmp_path / "net" / "model.onnx"), kind.target, "fp32")
    done = deploy(board, archive)
    assert done.returncode == 0, done.stdout + done.stderr
    [program] = re.findall(r"```python\n(from effedge import Detector\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    program = program.replace("build/d0-digits/int8-cpu", "engine").replace('["a.jpg", "b.png"]', "images")
    folder = board.home / "effedge" / archive.name[: -len(".tar.gz")]
    (folder / "program.py").write_text(f'images = ["selftest/image.png"] * 2\n{program}')
    done = board.run(f"cd effedge/{folder.name} && SIMULATED_TRACE=1 python3 program.py")
    assert done.returncode == 0 and done.stdout.count("[") >= 6, done.stdout + done.stderr
    freed = [line.partition("destroyed: ")[2] for line in done.stderr.splitlines() if line.startswith("destroyed: ")]
    at_the_end = freed[freed.index("execution context") :]  # before it, memory that larger images outgrew
    assert "memory" in at_the_end
    assert [what for what in at_the_end if what != "memory"] == ["execution context", "stream", "engine"]
    assert "Error" not in done.stderr and "cleanup" not in done.stderr


@pytest.mark.parametrize("release", ["", None], ids=["empty", "absent"])
def test_in_a_container_the_gpu_says_which_board_it_is(start, tmp_path, release):
    """A container has Jetson Linux's file empty or not at all (dusty-nv/jetson-containers#215)."""
    board = start(JETPACK_62)
    file = board.files / "etc/nv_tegra_release"
    file.unlink()
    if release is not None:
        file.write_text(release)
    archive = small_bundle(tmp_path / "net", JETPACK_62.target)
    done = deploy(board, archive)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = json.loads((archive.parent / "net-int8-jetson-orin@board/installed.json").read_text())
    assert (installed["built_for"], installed["l4t"]) == ("jetson-orin", None)
    assert predict(board, archive)


@pytest.mark.parametrize("kind", [JETPACK_51, JETPACK_62], ids=lambda kind: kind.name)
def test_int8_on_the_dla_is_built_by_the_ranges_in_the_bundle(kind, start, tmp_path):
    board = start(kind)
    (tmp_path / "net").mkdir()
    onnx = graphs.network(tmp_path / "net" / "model.onnx", opset=17)
    first, second, *_ = read_header(onnx).convolutions
    cache = tmp_path / "calibration.cache"
    cache.write_text(cache_text({first.outputs[0]: 1.0, second.outputs[0]: 6.0}, 8601))
    archive = quick_bundle(onnx, kind.target, "int8", build_options=BuildOptions(dla="fallback"), ranges=cache)
    done = deploy(board, archive)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 tensors have INT8 ranges" in done.stdout
    manifest = json.loads((archive.parent / f"net-int8-{kind.target}-dla@board/manifest.json").read_text())
    assert manifest["backend"]["dla"]["mode"] == "fallback" and manifest["no_traffic"].startswith("INT8 is by ranges")
