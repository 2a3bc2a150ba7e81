"""No manifest of an engine, however damaged, is more than one line of error; and none reads outside its folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given

from effedge import Classifier, Detector, Runner
from effedge.deploy.common.files import user_cache
from effedge.deploy.runtime.manifest import read_manifest
from tests.deploy.conftest import build  # noqa: F401  # a fixture
from tests.fuzz.strategies import FAST, NUMBERS, SLOW, TEXTS, changed, damaged, nested, one_line_or, run_of

ROOT = Path(__file__).resolve().parents[2]
IMAGE = np.full((40, 50, 3), 200, np.uint8)


opened: list[Path] = []  # the files that were opened while `watching` is not empty
watching: list[bool] = []


def note_open(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and watching and isinstance(arguments[0], (str, bytes)):
        opened.append(Path(os.path.realpath(os.fsdecode(arguments[0]))))


sys.addaudithook(note_open)  # it sees what Python opens, by whatever function, and stays until the process ends


@pytest.fixture
def engine(build, tmp_path):  # noqa: F811
    """An intact engine's folder; at the end no file of another folder has been opened, but effedge's and Python's."""
    folder = build()
    one_line_or(lambda: Detector(folder))  # the libraries are compiled
    opened.clear()
    watching.append(True)
    yield folder
    watching.clear()
    allowed = [tmp_path, ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), user_cache().resolve()]
    allowed += [Path(name) for name in ("/proc", "/sys", "/dev")]
    assert folder / "manifest.json" in opened
    assert [path for path in set(opened) if not any(place in path.parents for place in allowed)] == []


def use(folder: Path, run: bool) -> None:
    """Loads the engine in every way; with `run`, also runs what could be loaded."""
    manifest = one_line_or(lambda: read_manifest(folder))
    if manifest is None or not run:
        return
    detector = one_line_or(lambda: Detector(folder))
    if detector is not None:
        one_line_or(lambda: str(detector(IMAGE)))
    one_line_or(lambda: Classifier(folder))
    one_line_or(lambda: Runner(folder))


def check_objects(folder: Path, cases: int, run: bool) -> None:
    original = json.loads((folder / "manifest.json").read_text())

    @run_of(cases)
    @given(changed(original))
    def check(manifest):
        (folder / "manifest.json").write_text(json.dumps(manifest))
        use(folder, run)

    check()


def check_bytes(folder: Path, cases: int) -> None:
    original = (folder / "manifest.json").read_bytes()

    @run_of(cases)
    @given(damaged(original))
    @example(b"[" * 100_000)
    @example(b'{"format": ' + b"9" * 5000 + b"}")
    @example(original.replace(b'"engine.xml"', b'"../engine/engine.xml"'))
    def check(content):
        (folder / "manifest.json").write_bytes(content)
        use(folder, False)

    check()


def test_changed_manifests(engine):
    check_objects(engine, FAST, run=True)


def test_damaged_manifests(engine):
    check_bytes(engine, FAST)


def test_every_field_with_every_nasty_value(engine):
    """Each value of the list at each place of the manifest, one at a time."""
    path = engine / "manifest.json"
    original = json.loads(path.read_text())

    def places(value, at=()):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*at, key)
            if isinstance(value[key], (dict, list)):
                yield from places(value[key], (*at, key))

    cases = 0
    for place in places(original):
        for nasty in [*NUMBERS, *TEXTS, None, True, [], {}, [None], nested(200)]:
            manifest = json.loads(json.dumps(original))
            target = manifest
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = nasty
            path.write_text(json.dumps(manifest))
            use(engine, False)
            cases += 1
    assert cases > 500


@pytest.mark.slow
def test_many_changed_manifests(engine):
    check_objects(engine, SLOW // 20, run=True)
    check_objects(engine, SLOW, run=False)


@pytest.mark.slow
def test_many_damaged_manifests(engine):
    check_bytes(engine, SLOW)
