"""The two command lines: artefacts, records, and one line for each mistake."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from effedge.calibration.fp16 import convert
from effedge.calibration.graph import onnx_file
from effedge.calibration.quantize import calibrate
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from tests.calibration import networks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return networks.classifier().save(tmp_path / "model.onnx", spec=networks.SPEC)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(6):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_quantize_from_a_folder_then_nothing_to_do_then_other_images(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, all_int8 = tmp_path / "out" / "int8.onnx", Settings(float_share=0)
    assert calibrate(model, images, out, settings=all_int8, images=4)
    assert "SQNR" in capsys.readouterr().out
    proto = onnx.load(out)
    assert {"effedge", "effedge_calibration"} <= {prop.key for prop in proto.metadata_props}
    assert [node.op_type for node in proto.graph.node].count(
        "QuantizeLinear"
    ) == 9  # the shortcut's is the next block's
    assert not calibrate(model, images, out, settings=all_int8, images=4)
    changes = [Settings(float_share=0, correction=False), Settings(float_share=0.5), Settings("minmax", float_share=0)]
    for settings in changes:
        assert calibrate(model, images, out, settings=settings, images=4), settings
        assert not calibrate(model, images, out, settings=settings, images=4), settings
    Image.new("RGB", (40, 48), (9, 9, 9)).save(images / "0.png")
    assert calibrate(model, images, out, settings=changes[-1], images=4)


def test_a_calibration_leaves_out_images_that_cannot_be_read_and_its_record_depends_on_them(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "int8.onnx", Settings("minmax", correction=False, float_share=0)
    whole = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(whole[: len(whole) // 2])
    assert calibrate(model, images, out, settings=settings)
    warnings = capsys.readouterr().err
    assert "2.png" in warnings and "1 of 6 images could not be read; calibrated on the other 5" in warnings
    report = json.loads({prop.key: prop.value for prop in onnx.load(out).metadata_props}["effedge_calibration"])
    assert report["images"] == 5
    assert not calibrate(model, images, out, settings=settings)
    (images / "2.png").write_bytes(whole)
    assert calibrate(model, images, out, settings=settings)
    for index in range(4):
        (images / f"{index}.png").write_text("no image")
    with pytest.raises(UserError, match="4 of the 6 calibration images of .* cannot be read, the first: '.*0.png'"):
        calibrate(model, images, out, settings=settings)


def test_the_command_takes_its_settings_from_the_options(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    options = ["--method", "entropy", "--no-correction", "--float-share", "0", "--images", "3", "--quiet"]
    command = [sys.executable, "-m", "effedge", "quantize", str(model), "--calibration", str(images)]
    subprocess.run([*command, "--out", str(out), *options], cwd=ROOT, check=True, capture_output=True)
    report = json.loads({prop.key: prop.value for prop in onnx.load(out).metadata_props}["effedge_calibration"])
    assert (report["method"], report["correction"], report["images"]) == ("entropy", "none", 3)
    assert set(report["float_layers"].values()) == {"it is part of squeeze-and-excite"}


def test_an_up_to_date_stage_imports_neither_onnx_nor_onnx_runtime(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    calibrate(model, images, out)
    script = (
        "import sys; from pathlib import Path; from effedge.calibration.quantize import calibrate\n"
        f"assert not calibrate(Path({str(model)!r}), Path({str(images)!r}), Path({str(out)!r}))\n"
        "assert not {'onnx', 'onnx_ir', 'onnxruntime', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_quantize_from_arrays_needs_no_spec(tmp_path: Path) -> None:
    bare = networks.classifier().save(tmp_path / "bare.onnx")
    np.savez(tmp_path / "data.npz", image=np.concatenate([feed["image"] for feed in networks.feeds(5)]))
    assert calibrate(bare, tmp_path / "data.npz", tmp_path / "int8.onnx")
    with pytest.raises(UserError, match="does not say how it wants them"):
        (tmp_path / "p").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "p" / "x.png")
        calibrate(bare, tmp_path / "p", tmp_path / "other.onnx")


def test_fp16_stage_with_and_without_ranges(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fp16.onnx"
    assert convert.convert(model, out)
    assert "no ranges given" in capsys.readouterr().out
    assert not convert.convert(model, out)
    assert convert.convert(model, out, data=images)
    assert "ranges of 6 runs" in capsys.readouterr().out
    assert out.stat().st_size < model.stat().st_size


def bad_model(kind: str, tmp_path: Path, images: Path) -> Path:
    """A file that is no float ONNX, whole, of opset 11 or later."""
    path = tmp_path / "bad.onnx"
    if kind == "truncated":
        whole = networks.classifier().save(tmp_path / "whole.onnx").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no model at all")
    elif kind == "old":
        net = networks.Network()
        net.output(net.conv(net.input("x", [1, 1, 2, 2]), "conv", 1, 1), [1, 1, 2, 2])
        net.save(path, opset=10)
    elif kind in ("external", "short external"):
        onnx.save(networks.classifier().proto(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
        data = tmp_path / "w.bin"
        data.unlink() if kind == "external" else data.write_bytes(data.read_bytes()[:10])
    elif kind == "quantized":
        float_model = networks.classifier().save(tmp_path / "float.onnx", spec=networks.SPEC)
        calibrate(float_model, images, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no ONNX file at"),
        ("truncated", "no whole ONNX model"),
        ("empty", "no whole ONNX model"),
        ("text", "no whole ONNX model"),
        ("old", "opset 10, expected 11 or later"),
        ("external", "w.bin', which is missing"),
        ("short external", "w.bin', which is cut short"),
        ("quantized", "already quantized"),
    ],
)
def test_bad_models_are_one_clear_line_and_leave_nothing(kind: str, message: str, tmp_path: Path, images: Path) -> None:
    path, out = bad_model(kind, tmp_path, images), tmp_path / "out" / "out.onnx"
    with pytest.raises(UserError, match=message):
        calibrate(path, images, out)
    if kind == "quantized":  # FP16 around its INT8
        convert.convert(path, out)
        out = out.with_name("again.onnx")
        path, message = path.parent / "out" / "out.onnx", "has FP16 around its INT8"
    with pytest.raises(UserError, match=message):
        convert.convert(path, out)
    assert not out.exists()
    assert kind == "quantized" or not out.parent.exists() or not list(out.parent.iterdir())


def test_external_weights_that_are_there_end_up_inside(tmp_path: Path) -> None:
    source, out = tmp_path / "a" / "model.onnx", tmp_path / "b" / "fp16.onnx"
    source.parent.mkdir()
    proto = networks.classifier().proto()
    onnx.save(proto, source, save_as_external_data=True, location="w.bin", size_threshold=0)
    convert.convert(source, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["fp16.onnx", "fp16.onnx.json"]
    assert onnx_file.load(out).graph.outputs[0].name == "logits"

    assert not convert.convert(source, out)
    weights = np.fromfile(source.parent / "w.bin", np.uint8)
    weights[-4:] ^= 1  # the last float32's smallest bits
    weights.tofile(source.parent / "w.bin")
    assert convert.convert(source, out), "the weights beside the ONNX file changed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--calibration", "{empty}", "--out", "{out}"], "empty"),
        (["{model}", "--calibration", "{images}", "--out", "{out}", "--method", "minmix"], "did you mean 'minmax'"),
        (["{model}", "--calibration", "{images}", "--out", "{out}", "--images", "0"], "--images 0"),
        (["{model}", "--calibration", "{images}", "--out", "{out}", "--float-share", "1.5"], "--float-share 1.5"),
        (["{model}", "--out", "{out}"], "--calibration"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line_and_exit_2(
    arguments: list[str], message: str, model: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"model": model, "images": images, "empty": tmp_path / "empty", "out": tmp_path / "int8.onnx"}
    command = [
        sys.executable,
        "-m",
        "effedge",
        "quantize",
        *(argument.format(**places) for argument in arguments),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not places["out"].exists()
