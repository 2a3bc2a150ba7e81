"""Every file of examples/ does what its docstring says, run as its reader runs it, and is at most 40 lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.deploy.videos import write_video
from tests.engines import graphs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run_example(name, *words, cwd=ROOT, **environment):
    command = [sys.executable, str(EXAMPLES / name), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture
def red_square(tmp_path):
    """A folder with one image: a red square of 20 pixels at 10, 20."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[20:40, 10:30, 0] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    return tmp_path / "images"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_tested(path):
    assert len(path.read_text().splitlines()) <= 40
    assert path.name in Path(__file__).read_text()


def test_detect_in_folder(build, red_square):
    done = run_example("detect_in_folder.py", build(), red_square)
    assert done.stdout == f"{red_square}/a.png: 1 detection\n  red 0.90 at 10,20 to 30,40\n", done.stderr
    done = run_example("detect_in_folder.py", red_square, red_square)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_camera(build, tmp_path):
    pytest.importorskip("cv2", reason="OpenCV is not installed (the extra 'video')")
    done = run_example("camera.py", build(size=(120, 160)), write_video(tmp_path / "clip.mp4", frames=3))
    assert done.stdout.splitlines() == [f"frame {number}: 1 x red" for number in range(3)], done.stderr


def test_service(build, red_square):
    pytest.importorskip("starlette", reason="Starlette is not installed (the extra 'serve')")
    command = [sys.executable, "-u", "-m", "effedge", "serve", str(build()), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as service:
        try:
            line = next(line for line in service.stdout if "serving at" in line)
            url = line.split()[2].rstrip(";")
            path = red_square / "a.png"
            done = run_example("service.py", url, path)
            assert done.stdout == f"{path} red 0.9 10.0 20.0 30.0 40.0\n", done.stderr
            done = run_example("service.py", url, __file__)
            assert done.returncode == 1 and "is no image" in done.stderr
        finally:
            service.kill()


def test_foreign_onnx(tmp_path):
    onnx = graphs.network(tmp_path / "net.onnx", metadata={})
    images = np.random.default_rng(0).integers(0, 256, (6, graphs.SIZE, graphs.SIZE, 3), dtype=np.uint8)
    np.savez(tmp_path / "arrays.npz", image=images)
    done = run_example("foreign_onnx.py", onnx, tmp_path / "arrays.npz", cwd=tmp_path)
    [line] = [line for line in done.stdout.splitlines() if "signal to quantization noise" in line]
    assert float(line.split()[-2]) > 15, done.stdout + done.stderr


@pytest.mark.slow
def test_own_checkpoint(tmp_path):
    from effedge.pipeline.datasets.digits_cache import digits_folder

    weights = ROOT / "pipeline" / "weights" / "checkpoints" / "b0-digits.safetensors"
    folder = digits_folder("classification", "val", size=64, count=100)
    done = run_example("own_checkpoint.py", "b0", weights, folder, folder, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if "top-1" in line]
    assert [line.split(":")[0] for line in lines] == [f"build/b0-b0_digits/{name}-cpu" for name in ("fp16", "int8")]


@pytest.mark.slow
def test_latency_test(build, tmp_path):
    """`examples/test_latency.py` in pytest; a busy machine skips it."""
    engine, baseline = build(), tmp_path / "baseline.json"
    record = [sys.executable, "-m", "effedge", "latency-test", str(engine), "--baseline", str(baseline), "--record"]
    recorded = subprocess.run(record, cwd=ROOT, capture_output=True, text=True)
    if "too busy" in recorded.stderr:
        pytest.skip(recorded.stderr)
    assert recorded.returncode == 0, recorded.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_latency.py")]
    environment = {**os.environ, "ENGINE": str(engine), "BASELINE": str(baseline)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
