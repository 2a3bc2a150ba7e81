"""Kills and failing disks at each change of a file: no half artefact, no false record, nothing lost, nothing left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.harness import FAULTS, Harness, Stage, compile_library
from tests.faults.stages import BASELINE, BUNDLE, CROPS, INSTALLATION, TRAINING, chain


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that fails calls."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc) for the library that fails calls")
    return compile_library(compiler, tmp_path_factory.mktemp("faults"))


def run_all(stage: Stage, folder: Path, library: Path, every: int = 1, every_write: int = 1) -> None:
    """Injects each kind of fault at every n-th call, and of writes at every n-th of these, each kind at others."""
    harness = Harness(stage, folder, library)
    try:
        for offset, kind in enumerate(FAULTS.values()):
            for at in harness.places(offset, every, every_write):
                harness.inject(kind, at)
        print(harness.summary())
        assert harness.injected
    finally:
        harness.close()


@pytest.mark.parametrize(("stage", "every"), [(CROPS, 7), (BASELINE, 5)], ids=lambda value: getattr(value, "name", ""))
def test_some_faults_of_small_stages(stage, every, tmp_path, library) -> None:
    run_all(stage, tmp_path, library, every)


# A training's checkpoints are thousands of writes, of which some are enough; of its other calls none is left out. The
# chain for OpenVINO is, but for the engine, that for ONNX Runtime, so that every sixth call is enough.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "every", "every_write"),
    [
        (chain("fp32", "cpu-ort"), 1, 1),
        (chain("int8", "cpu-ort"), 1, 1),
        (chain("int8", "cpu"), 6, 1),
        (CROPS, 1, 1),
        (BASELINE, 1, 1),
        (TRAINING, 1, 500),
        (BUNDLE, 1, 1),
        (INSTALLATION, 1, 1),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_fault_of_every_stage(stage, every, every_write, tmp_path, library) -> None:
    run_all(stage, tmp_path, library, every, every_write)
