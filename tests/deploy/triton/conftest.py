"""Engine folders of tests/deploy/conftest.py with the outputs' types and shapes in their manifests, as engines/ writes
them, and repositories of them."""

import hashlib
import json

import pytest

from effedge.deploy.triton import command

OUTPUTS = {
    "detection": [("boxes", "float32", [3, 4]), ("scores", "float32", [3]), ("classes", "int32", [3])],
    "classification": [("logits", "float32", [7])],
}


def change(folder, **fields):
    """Sets fields of a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


@pytest.fixture
def engine(build):
    """engine(task, batch, ...) makes an engine folder, as `build`."""

    def make(task="detection", batch=(1, 1, 1), **options):
        first = batch[0] if batch[0] == batch[2] else "N"
        outputs = [{"name": name, "dtype": dtype, "shape": [first, *shape]} for name, dtype, shape in OUTPUTS[task]]
        return change(build(task, batch=batch, **options), outputs=outputs)

    return make


@pytest.fixture
def as_runtime(engine):
    """as_runtime(name, file, content, **fields of "backend") makes an engine folder of a runtime that cannot run
    here."""

    def make(name, file="engine.plan", content=b"plan", batch=(1, 1, 1), **backend):
        folder = engine(batch=batch)
        for old in folder.glob("engine.*"):
            old.unlink()
        (folder / file).write_bytes(content)
        described = {"name": name, "version": "10.13.3.9", **backend}
        return change(folder, backend=described, engine=file, files={file: hashlib.sha256(content).hexdigest()})

    return make


@pytest.fixture
def triton(call_main, tmp_path):
    """triton(folder, *options, out="repository") writes a repository and returns it, or the error's line."""

    def write(*words, out="repository"):
        status, printed, errors = call_main(command.main, *words, "--out", tmp_path / out)
        if status == 0:
            write.printed, write.errors = printed, errors
            return tmp_path / out
        assert status == 2 and errors.count("\n") == 1, errors
        return errors

    return write
