"""No checkpoint, however damaged, is more than one line of error, and no code of one runs."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given
from safetensors.torch import save

from effedge.pipeline.models.tables import is_detector
from effedge.pipeline.weights import load
from effedge.pipeline.weights.published import preprocessing
from effedge.pipeline.weights.save import load_matching
from effedge.pipeline.weights.state_file import StateFile, read_file
from effedge.pipeline.weights.statements import (
    check_model_said,
    said_anchors,
    said_architecture,
    said_preprocessing,
    said_size,
)
from tests.fuzz.strategies import FAST, SLOW, changed, damaged, one_line_or, run_of

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
COUNTS = [FAST, pytest.param(SLOW // 4, marks=pytest.mark.slow)]
ENTRIES = {
    "arch": "tf_efficientnet_lite0", "epoch": 3, "args": {"lr": 0.1, "betas": [0.9, 0.99]}, "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5], "input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bicubic",
    "num_scales": 3, "anchor_scale": 4.0, "aspect_ratios": [[1.0, 1.0]], "fill_color": 0,
}  # fmt: skip


def small_state() -> dict[str, torch.Tensor]:
    return {"conv_stem.weight": torch.ones(4, 3, 3, 3), "bn1.weight": torch.ones(4).half(), "n": torch.tensor(3)}


def torch_bytes(content: object, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


SAFETENSORS = save(small_state(), {"labels": '["a", "b"]', "size": "224", "crop": "0.875"})
FILES = {
    "a.safetensors": SAFETENSORS,
    "zip.pth": torch_bytes({"state_dict": small_state(), **ENTRIES}),
    "old.pt": torch_bytes({"state_dict": small_state(), **ENTRIES}, zipped=False),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line(tmp_path, name, count):
    model = torch.nn.Sequential()

    @run_of(count)
    @given(damaged(FILES[name]))
    def run(content):
        (tmp_path / name).write_bytes(content)
        one_line_or(lambda: read_file(tmp_path / name))
        one_line_or(lambda: load_matching(model, tmp_path / name))

    run()


def repacked(content: bytes) -> bytes:
    """The zip of torch.save with other bytes in place of its pickle, so that damage gets as far as the unpickler."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILES["zip.pth"])) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith("data.pkl") else old.read(entry))
    return file.getvalue()


def pickle_of(name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(FILES[name])) as archive:
        return archive.read(next(entry for entry in archive.namelist() if entry.endswith("data.pkl")))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_pickle_is_one_line_and_runs_nothing(tmp_path, count):
    marker, path = tmp_path / "ran", tmp_path / "a.pth"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    @run_of(count)
    @given(damaged(pickle_of("zip.pth")), damaged(pickle.dumps({"a": Evil(), "b": ENTRIES}, 2)))
    def run(ours, evil):
        for content in (ours, evil):
            path.write_bytes(repacked(content))
            one_line_or(lambda: read_file(path))
            assert not marker.exists()

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_what_a_file_says_beside_its_tensors_is_one_line(tmp_path, count):
    path = tmp_path / "model.safetensors"  # a name of the hub, with a config.json beside it

    def use(content: StateFile, name: str) -> None:
        said_architecture(content.values)
        said_size(content.values)
        one_line_or(lambda: check_model_said(content.values, name, path))
        look = said_preprocessing(content.values, name, preprocessing(name, ""))
        assert all(math.isfinite(number) for number in (*look.mean, *look.std))
        if is_detector(name):
            said_anchors(content.values, name)

    @run_of(count)
    @given(changed(ENTRIES), changed({"labels": ["a", "b"], "size": 224, "crop": 0.875}))
    def run(entries, metadata):
        texts = {
            key.encode("utf-8", "replace").decode(): json.dumps(value)
            for key, value in (metadata if isinstance(metadata, dict) else {}).items()
        }
        path.write_bytes(save(small_state(), texts))
        (tmp_path / "config.json").write_text(json.dumps(entries))
        content = one_line_or(lambda: read_file(path))
        if content is not None:
            use(content, "lite0")
            use(content, "d0")
            one_line_or(lambda: load._metadata_numbers(content))
            one_line_or(lambda: load._labels("lite0", 2, None, content.metadata))

    run()
