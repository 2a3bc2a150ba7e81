"""The examples in docstrings, in the README and on the runtime's page run, in a folder with small engines and images.

The detector finds red (7), green (5) and blue (3) rectangles, the classifier answers by the mean colour (conftest.py).
"""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    "effedge",
    "effedge.deploy.image.classification",
    "effedge.deploy.image.detections",
    "effedge.deploy.image.indexing",
    "effedge.deploy.image.inputs",
    "effedge.deploy.image.iou",
    "effedge.deploy.image.nms",
    "effedge.deploy.image.resample",
    "effedge.deploy.runtime.classifier",
    "effedge.deploy.runtime.detector",
    "effedge.deploy.runtime.runner",
    "effedge.deploy.runtime.selection",
]
PAGES = ["README.md", "docs/runtime.md", "docs/quickstart.md"]
ELSEWHERE = re.compile(r"^(import|from) (supervision|ultralytics|cv2)", re.MULTILINE)  # beside the own calls


@pytest.fixture
def folder(build, adder, tmp_path, monkeypatch):
    """The working folder of the examples."""
    for name, task in (("build/d0-digits", "detection"), ("build/b0-digits", "classification")):
        (tmp_path / name).mkdir(parents=True)
        labels = ["7", "5", "3", *(["0", "1", "2", "4"] if task == "classification" else [])]
        build(task, size=(128, 256), labels=labels, name=f"{name}/int8-cpu")
    (tmp_path / "build" / "net").mkdir()
    adder.rename(tmp_path / "build" / "net" / "int8-cpu")
    photo = np.zeros((128, 256, 3), np.uint8)
    photo[20:100, 40:120, 0] = photo[60:128, 160:256, 2] = 255
    for name in ("photo.png", "a.png", "b.png", "photo.jpg", "a.jpg"):
        Image.fromarray(photo).save(tmp_path / name, quality=95)
    Image.fromarray(np.full((64, 64, 3), (100, 0, 200), np.uint8)).save(tmp_path / "crop.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_right(name, folder):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0 and results.attempted > 0


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run_one_after_the_other(page, folder):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    variables = {"frame": np.zeros((90, 120, 3), np.uint8), "paths": ["a.jpg", "b.png"]}
    run = [block for block in blocks if not ELSEWHERE.search(block)]
    for block in run:
        exec(compile(block, page, "exec"), variables)
    assert run
