"""The folders of models under OUT: one for each, the same each time."""

import multiprocessing
import threading
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.targets import TARGETS
from effedge.pipeline.artefact_folder import SOURCE, artefact_folder, artefact_name
from effedge.pipeline.request import Checkpoint, OnnxFile, Request


def folder_of(source, out, name=None, fails=False):
    """The name of the folder that a request of this source gets, with an artefact in it."""
    with artefact_folder(Request(source, "fp32", TARGETS["cpu"], out, name=name)) as folder:
        if fails:
            raise UserError("no model")
        (folder / "simplified.onnx").write_text("")
    return folder.name


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("d0", "digits", None, (1, 1, 1)), "d0-digits"),
        (("d0", "imagenet-ap", None, (1, 1, 1)), "d0-imagenet-ap"),
        (("b0", "runs/my net.v2.pth", None, (1, 1, 1)), "b0-my_net.v2"),
        (("d0", "random", 640, (1, 1, 1)), "d0-random-640"),
        (("d0", "random", None, (4, 4, 4)), "d0-random-b4"),
        (("d0", "random", 256, (1, 4, 8)), "d0-random-256-b1-4-8"),
    ],
)
def test_each_model_has_its_own_folder(arguments, name):
    model, weights, size, batch = arguments
    assert artefact_name(Checkpoint(model, weights, size=size, batch=batch)) == name


def test_different_batches_never_share_a_folder():
    batches = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (1, 2, 4)]
    assert len({artefact_name(Checkpoint("d0", "random", batch=batch)) for batch in batches}) == len(batches)


@pytest.mark.parametrize("kind", ["onnx", "checkpoint"])
def test_files_of_one_name_get_as_many_of_their_folders_as_tell_them_apart(tmp_path, kind):
    def source(path):
        return OnnxFile(tmp_path / path) if kind == "onnx" else Checkpoint("d0", str(tmp_path / path), size=640)

    names = (
        ("best", "b_best", "run_2_a_best")
        if kind == "onnx"
        else ("d0-best-640", "d0-b_best-640", "d0-run_2_a_best-640")
    )
    for path, name in zip(("a/best.pth", "b/best.pth", "run 2/a/best.pth"), names, strict=True):
        # The second of them takes its folder's name; the third's folder, a, is free, but for its own sake:
        (tmp_path / "out" / ("a_best" if kind == "onnx" else "d0-a_best-640")).mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / ("a_best" if kind == "onnx" else "d0-a_best-640") / SOURCE).write_text("another")
        assert folder_of(source(path), tmp_path / "out") == name
    for path, name in zip(("run 2/a/best.pth", "a/best.pth", "b/best.pth"), (names[2], *names[:2]), strict=True):
        assert folder_of(source(path), tmp_path / "out") == name  # again, in another order


def test_a_suffix_makes_another_source_of_one_name(tmp_path):
    assert folder_of(Checkpoint("d0", str(tmp_path / "x" / "best.pth")), tmp_path) == "d0-best"
    assert folder_of(Checkpoint("d0", str(tmp_path / "x" / "best.safetensors")), tmp_path) == "d0-x_best"


def test_a_tree_that_is_moved_keeps_its_folders(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / "old" / name).mkdir(parents=True)
        folder_of(OnnxFile(tmp_path / "old" / name / "model.onnx"), tmp_path / "old" / "build")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new" / "b")
    assert folder_of(OnnxFile(Path("model.onnx")), Path("../build")) == "b_model"
    assert folder_of(OnnxFile(Path("../a/model.onnx")), tmp_path / "new" / "build") == "model"


def test_effedges_own_models_keep_their_names_and_no_file_takes_them(tmp_path):
    out = tmp_path / "out"
    assert folder_of(Checkpoint("d0"), out) == "d0-digits"
    assert folder_of(OnnxFile(tmp_path / "d0" / "digits.onnx"), out) == "digits"
    assert folder_of(OnnxFile(tmp_path / "x" / "d0-digits.onnx"), out) == "d0_digits"
    assert folder_of(OnnxFile(tmp_path / "x" / "net.onnx"), out, "b0-digits") == "b0-digits"
    with pytest.raises(UserError, match="b0-digits' is of '../x/net.onnx': give 'b0-digits' a NAME"):
        folder_of(Checkpoint("b0"), out)


def test_a_folder_of_an_earlier_version_is_used_again(tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert folder_of(OnnxFile(tmp_path / "model.onnx"), tmp_path / "out") == "model"


def test_a_name_is_the_users_to_give_and_to_give_to_another(tmp_path, caplog):
    assert folder_of(OnnxFile(tmp_path / "a" / "model.onnx"), tmp_path / "out", "mine.v2") == "mine.v2"
    assert caplog.text == ""
    assert folder_of(OnnxFile(tmp_path / "b" / "model.onnx"), tmp_path / "out", "mine.v2") == "mine.v2"
    assert "was of '../a/model.onnx'" in caplog.text
    assert (tmp_path / "out" / "mine.v2" / SOURCE).read_text() == "../b/model.onnx\n"
    for name in ("a/b", "..", "", " ", "-x", ".x"):
        with pytest.raises(UserError, match=r"\(--name\): expected a folder's name"):
            Request(Checkpoint("d0"), "fp32", TARGETS["cpu"], tmp_path, name=name)


def test_a_failure_before_the_first_artefact_leaves_nothing(tmp_path):
    with pytest.raises(UserError):
        folder_of(OnnxFile(tmp_path / "model.onnx"), tmp_path / "new" / "out", fails=True)
    assert not (tmp_path / "new" / "out").exists()
    folder_of(OnnxFile(tmp_path / "model.onnx"), tmp_path / "out")
    with pytest.raises(UserError):
        folder_of(OnnxFile(tmp_path / "model.onnx"), tmp_path / "out", fails=True)
    assert sorted(path.name for path in (tmp_path / "out" / "model").iterdir()) == ["simplified.onnx", SOURCE]


def build_one(path):
    return folder_of(OnnxFile(path), path.parents[1] / "out")


def test_models_that_are_built_at_one_moment_do_not_share(tmp_path):
    paths = [tmp_path / str(index) / "model.onnx" for index in range(24)]
    with multiprocessing.get_context("fork").Pool(8) as pool:
        names = pool.map(build_one, paths, chunksize=1)
    assert len(set(names)) == len(paths) and "model" in names
    for path, name in zip(paths, names, strict=True):
        assert (tmp_path / "out" / name / SOURCE).read_text() == f"../{path.parent.name}/model.onnx\n"


def hold(out, begun, end):
    with artefact_folder(Request(Checkpoint("d0"), "fp32", TARGETS["cpu"], out)):
        begun.set()
        end.wait(30)


def test_a_second_run_waits_for_the_folder_until_the_first_is_done(tmp_path, caplog):
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, begun, end))
    process.start()
    assert begun.wait(30)
    threading.Timer(0.5, end.set).start()
    assert folder_of(Checkpoint("d0"), tmp_path) == "d0-digits" and end.is_set()
    process.join()
    assert f"waiting for process {process.pid}" in caplog.text
    # Another model's folder is free meanwhile, and a mark that an earlier effedge was killed in is mended.
    (tmp_path / "b0-digits").mkdir()
    (tmp_path / "b0-digits" / SOURCE).write_text("")
    assert folder_of(Checkpoint("b0"), tmp_path) == "b0-digits"
    assert (tmp_path / "b0-digits" / SOURCE).read_text() == "b0-digits\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b0-digits", "d0-digits"]
