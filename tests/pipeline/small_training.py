"""Small data, options and helpers for the tests of training."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.data.sources import training_data
from effedge.pipeline.training.options import Options
from effedge.pipeline.training.train import main

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"blue": (20, 30, 220), "green": (20, 210, 30), "red": (230, 20, 10)}
B0 = Options(model="b0", data="", size=Size(32, 32), steps=5, batch=2, rate=1e-3, warmup=2, decay=1e-2,
             drop_connect=0.2, seed=0, init=None)  # fmt: skip
D0 = dataclasses.replace(B0, model="d0", size=Size(128, 128), steps=4)


def write_coco(folder, count, box=None):
    """Images of one square each, of a colour that is its class; all boxes `box` if given."""
    random, images, annotations = np.random.default_rng(1), [], []
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = random.integers(0, 60, (120, 160, 3), np.uint8)
        side = int(random.integers(40, 70))
        x, y = int(random.integers(160 - side)), int(random.integers(120 - side))
        name = sorted(COLOURS)[index % 3]
        pixels[y : y + side, x : x + side] = COLOURS[name]
        Image.fromarray(pixels).save(folder / "photographs" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png"})
        annotations.append({"id": index + 1, "image_id": index, "category_id": index % 3 + 1,
                            "bbox": box or [x, y, side, side]})  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(sorted(COLOURS))]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def data_of(options, path, images=None):
    return training_data(options.model, str(path), images, options.size, options.sampling)


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
    main()


def error_of(monkeypatch, *words):
    with pytest.raises(UserError) as error:
        run_main(monkeypatch, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, {different[0]}"
