"""Every documented command that this machine can run, run in a copy of the checkout with the files that it names.

It takes most of an hour. What takes hours is shortened, and what needs a board, a GPU or a download is left to
test_documented_commands.py, which holds its options against the command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.docs.documented import ROOT, documented_commands

# What is not run, and why.
LEFT_OUT = {
    r"^effedge fleet ": "there are no boards",
    r"^make (test|test-slow|test-boards|lint|setup|docs)\b": "these targets run the tests, or what the tests run",
    r"user@board|HOST=|~/effedge/|^sh install": "there is no board",
    r"^pytest --latency-baseline": "it would run these tests; tests/deploy/test_latency_test.py runs it elsewhere",
    r"--target (trt|jetson-orin) --out": "there is no GPU",
    r"kernel_times|/dev/video0|camera:0": "there is no GPU, or no camera",
    r"^(make accuracy EFFEDGE_DATA|torchrun --nnodes|torchrun --nproc-per-node 8)": "it needs peers, data, or machines",
    r"^make (builds|growth|accuracy|choose)$|latency_trials|effedge accuracy": "it takes half an hour or more",
    r"^effedge (engine|latency)( build/| )(det-)?v2-s": "the build takes half an hour, and v2-b0's is run",
    r"^effedge engine efficientdetv2_dt --weights mine.pth": "the weights are another model's",
    r"^(make growth|make choose|effedge choose|make benchmark)": "it takes minutes a model, and has a test",
    r"make engine MODEL=lite0 WEIGHTS=imagenet": "it needs the extra lite0",
    r"^(\.|eval|curl) |service.py": "a shell's own, or a service, which has a test",
    r"^effedge (serve|demo) |serving_load|runtime_soak": "it runs until Ctrl-C, or ten minutes, and has a test",
    r"^\.venv/bin/pip ": "it installs what the tests have",
    r"bccd/|--data imagenet/|lite0:imagenet|WEIGHTS=imagenet|--init imagenet": "it needs data from elsewhere",
    r"d0-(128|256|512|first|smaller|small)\.saf|det-v2-b0-(last|more)|more\.saf": "it goes on from a long training",
    r"b0-160": "it starts from such a training",
    r"^effedge train d0 --size 512": "it takes hours",
    r"hf-hub:|timm:": "it needs the Hugging Face hub; the tests of weights have a server of its shape",
    r"MODEL=d0 WEIGHTS=mine.pth|engine d0-panet|MODEL=det-lite0 WEIGHTS=mine": "the weights are another model's",
}
SHORTER = [
    (r"--epochs \d+|EPOCHS=\d+|--steps \d+", "--steps 2"),
    (r"FINETUNE=\d+", "FINETUNE=2"),
    (r"^(effedge finetune build/d0.*)", r"\1 --steps 2"),
    (r"--rounds 5", "--rounds 1"),
    (r"--limit 100|--data digits$", "--data digits --limit 20"),
    (r"--models d0 d1 --batches 1 4", "--models b0 --batches 1"),
    (r"LIMIT=100", "LIMIT=10"),
    (r"heat=scores", "logits=logits"),  # the output's name in the test's network
]


def reason_against(command: str) -> str | None:
    return next((reason for pattern, reason in LEFT_OUT.items() if re.search(pattern, command)), None)


RUN = [shown for shown in documented_commands() if reason_against(shown.command) is None]
# Several places show the same command.
RUN = list({shown.command: shown for shown in RUN}.values())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout with the files that the documentation names; its environment is the tests' own."""
    from effedge.pipeline.datasets.digits_cache import digits_folder

    folder = tmp_path_factory.mktemp("documented") / "effedge"
    ignored = shutil.ignore_patterns(".git", "build", ".*_cache", "__pycache__", "*.egg-info", ".venv")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    environment = Path(sys.prefix)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(environment / "bin")
    for extra in ("core", "dev", "rtx", "lite0", "plot", "video", "train", "serve", "hub", "fleet", "docs"):
        (folder / ".venv" / f".installed-{extra}").touch()
    digits = digits_folder("detection", "val", size=0, count=12)
    for name in ("images", "IMAGES"):
        shutil.copytree(digits / "images", folder / name)
    shutil.copytree(digits_folder("classification", "val", size=64, count=60), folder / "CROPS")
    for name in ("train.json", "val.json", "wide.json"):
        shutil.copy(digits / "instances.json", folder / name)
    shutil.copy(ROOT / "pipeline/weights/checkpoints/d0-digits.safetensors", folder / "mine.safetensors")
    shutil.copy(next((folder / "images").iterdir()), folder / "photo.jpg")
    (folder / "baselines").mkdir()
    effedge(folder, "effedge", "engine", "d0", "--precision", "int8", "--target", "cpu", "--calibration", "images")
    effedge(folder, "effedge", "engine", "d0", "--precision", "int8", "--target", "rtx", "--calibration", "images")
    effedge(folder, "effedge", "engine", "d0", "--precision", "fp32", "--target", "cpu")
    effedge(folder, "effedge", "engine", "b0", "--until", "simplify")
    effedge(
        folder, "effedge", "bundle", "d0", "--precision", "int8", "--target", "jetson-orin", "--calibration", "images"
    )
    shutil.copy(folder / "build/d0-digits/simplified.onnx", folder / "simplified.onnx")
    for name in ("int8.onnx", "int8-fp16.onnx"):
        shutil.copy(folder / "build/d0-digits" / name, folder / name)
    write_foreign_model(folder)
    return folder


def write_foreign_model(folder: Path) -> None:
    """net.onnx and model.onnx, without effedge's description, arrays for them, and a YOLOX with labels."""
    from tests.engines import graphs
    from tests.pipeline.export.heads.networks import network

    network("yolox", folder / "yolox_nano.onnx")
    (folder / "coco.txt").write_text("0\n1\n2\n")

    for name in ("net.onnx", "model.onnx"):
        graphs.network(folder / name, metadata={})
    images = np.random.default_rng(0).integers(0, 256, (6, graphs.SIZE, graphs.SIZE, 3), dtype=np.uint8)
    for name in ("inputs.npz", "arrays.npz"):
        np.savez(folder / name, image=images)


def effedge(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(list(command), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.mark.slow
@pytest.mark.parametrize("shown", RUN, ids=lambda shown: f"{shown.place}: {shown.command}"[:100])
def test_a_documented_command_runs(shown, checkout):
    command = shown.command
    for pattern, shorter in SHORTER:
        command = re.sub(pattern, shorter, command)
    command = command.replace("ENGINE clip", "build/d0-digits/int8-cpu clip")
    if "clip.mp4" in command:
        from tests.deploy.videos import write_video

        write_video(checkout / "clip.mp4", frames=5)
    if "--baseline d0.json" in command or "d0.json" in command and "--record" not in command:
        baseline = ["effedge", "latency-test", "build/d0-digits/int8-cpu", "--baseline", "d0.json", "--record"]
        if not (checkout / "d0.json").exists():
            effedge(checkout, *baseline)
    effedge(checkout, "sh", "-c", command)


def test_what_is_left_out_is_few_and_has_a_reason():
    left_out = [shown for shown in documented_commands() if reason_against(shown.command)]
    assert all(any(re.search(pattern, shown.command) for shown in left_out) for pattern in LEFT_OUT), (
        "a pattern is stale"
    )
    assert json.dumps([shown.command for shown in RUN]) and len(RUN) > 40
