"""Tests the table against NVIDIA's published facts, and the resolution of target auto."""

import importlib.machinery

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines import targets
from effedge.engines.targets import FLAGS, TARGETS, TYPED, check_buildable_here, import_backend, resolve_target


@pytest.mark.parametrize(
    ("name", "version", "python", "how", "opset", "progress"),
    [  # JetPack's release notes and onnx-tensorrt's docs/operators.md
        ("jetson-nano", "8.2.1", "3.6", FLAGS, 13, False),
        ("jetson-xavier", "8.5.2", "3.8", FLAGS, 17, False),
        ("jetson-orin-jp5", "8.5.2", "3.8", FLAGS, 17, False),
        ("jetson-orin-jp6.0", "8.6.2", "3.10", FLAGS, 17, False),
        ("jetson-orin", "10.3.0", "3.10", TYPED, 20, True),
        ("jetson-orin-jp7", "10.13.3", "3.12", TYPED, 22, True),
        ("jetson-thor", "10.13.3", "3.12", TYPED, 22, True),
    ],
)
def test_a_jetson_has_what_its_jetpack_ships(name, version, python, how, opset, progress):
    row = TARGETS[name]
    assert version.startswith(row.versions)
    assert (row.python, row.precision_by, row.opset, row.progress) == (python, how, opset, progress)
    assert row.jetson


def test_only_the_nano_has_no_fast_int8_and_no_uint8_input():
    assert [row.name for row in TARGETS.values() if not row.fast_int8] == ["jetson-nano"]
    assert [row.name for row in TARGETS.values() if not row.uint8_input] == ["jetson-nano"]


@pytest.mark.parametrize(
    ("tensorrt", "gpu", "expected"), [(False, True, "cpu"), (True, False, "cpu"), (True, True, "trt")]
)
def test_auto_is_tensorrt_only_where_it_imports_and_a_gpu_answers(monkeypatch, capsys, tensorrt, gpu, expected):
    spec = importlib.machinery.ModuleSpec("tensorrt", None) if tensorrt else None
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(targets, "gpu_answers", lambda: gpu)
    assert resolve_target("auto").name == expected
    assert capsys.readouterr().out.startswith(f"target auto: {expected} (")


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'jetson-orin'"):
        resolve_target("jetson-orn")


def test_a_jetson_is_built_on_the_jetson(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="built on the Jetson itself"):
        check_buildable_here(TARGETS["jetson-orin"])
    monkeypatch.setattr(targets, "L4T_RELEASE", tmp_path)
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: object())
    check_buildable_here(TARGETS["jetson-orin"])


def test_another_tensorrt_than_the_rows_is_refused(monkeypatch):
    monkeypatch.setattr(targets, "check_buildable_here", lambda target: None)
    monkeypatch.setattr(targets.importlib, "import_module", lambda name: type("M", (), {"__version__": "8.6.1"}))
    with pytest.raises(UserError, match=r"expects tensorrt 10\.x or 11\.x, but 8\.6\.1 is installed"):
        import_backend(TARGETS["trt"])


@pytest.mark.parametrize("gpu", [True, False])
def test_engines_for_a_gpu_run_where_one_answers_and_those_for_a_cpu_anywhere(monkeypatch, gpu):
    monkeypatch.setattr(targets, "gpu_answers", lambda: gpu)
    assert targets.runs_here(TARGETS["cpu"])
    assert targets.runs_here(TARGETS["rtx"]) == targets.runs_here(TARGETS["trt"]) == gpu
