"""Tests which target offers which build option, and the limit of the workspace on boards."""

import argparse

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines import build_options
from effedge.engines.build_options import BuildOptions, add_build_options, default_workspace_mib, read_build_options
from effedge.engines.gpu import Gpu
from effedge.engines.targets import TARGETS


@pytest.mark.parametrize(
    ("target", "precision", "asked", "message"),
    [
        ("cpu", "fp32", {"workspace_mib": 64}, "--workspace-mib is for GPUs: leave it out for cpu"),
        ("cpu", "fp16", {"dla": "only"}, "--dla is for GPUs"),
        ("trt", "fp32", {"compute_capabilities": ("8.9",)}, "--compute-capability is for target rtx"),
        ("rtx", "int8", {"compute_capabilities": ("7.5", "8.6")}, "has no INT8 for 7.5: leave it out, or build fp16"),
        ("rtx", "fp8", {"compute_capabilities": ("8.9", "8.6")}, "compute capability 8.6 has no FP8, 8.9 and later do"),
        ("rtx", "fp32", {"workspace_mib": 0}, "--workspace-mib 0: expected 1 or more"),
        ("rtx", "fp32", {"optimization_level": 3}, "does nothing for rtx"),
        ("trt", "fp32", {"optimization_level": 6}, "--optimization-level 6: expected 0 .* to 5"),
        ("rtx", "fp32", {"version_compatible": True}, "--version-compatible: rtx does not offer it, trt"),
        ("jetson-orin", "fp16", {"hardware_compatible": True}, "--hardware-compatible: jetson-orin does not offer it"),
        ("jetson-orin", "fp16", {"dla": "onyl"}, "unknown DLA mode 'onyl'"),
        ("jetson-orin", "fp32", {"dla": "fallback"}, "not in fp32: build PRECISION=fp16"),
        ("cpu", "int8", {"float_parts": "bf16"}, "unknown precision of the float parts 'bf16'"),
        ("cpu", "fp16", {"float_parts": "fp32"}, "--float-parts fp32 is for int8 engines of target cpu: leave it out"),
        ("cpu-ort", "int8", {"float_parts": "fp16"}, "--float-parts fp16 is for int8 engines of target cpu"),
        ("rtx", "int8", {"float_parts": "fp16"}, "--float-parts fp16 is for int8 engines of target cpu"),
        ("cpu", "int8", {"swish": "hard"}, "unknown swish 'hard'"),
        ("cpu", "fp32", {"swish": "polynomial"}, "--swish polynomial is for fp16 and int8 engines of target cpu"),
        ("cpu-ort", "int8", {"swish": "polynomial"}, "--swish polynomial is for fp16 and int8 engines of target cpu"),
        ("rtx", "int8", {"swish": "polynomial"}, "--swish polynomial is for fp16 and int8 engines of target cpu"),
        ("cpu", "int8", {"cpu_blocks": "on"}, "--cpu-blocks on: expected auto, off or a number of blocks"),
        ("cpu", "int8", {"cpu_blocks": "0"}, "--cpu-blocks 0: expected auto, off or a number of blocks"),
        ("cpu", "fp32", {"cpu_blocks": "3"}, "--cpu-blocks 3 is for fp16 and int8 engines of target cpu"),
        ("cpu-ort", "int8", {"cpu_blocks": "3"}, "--cpu-blocks 3 is for fp16 and int8 engines of target cpu"),
        ("rtx", "int8", {"cpu_blocks": "3"}, "--cpu-blocks 3 is for fp16 and int8 engines of target cpu"),
    ],
)
def test_what_a_target_does_not_offer_is_refused(target, precision, asked, message):
    with pytest.raises(UserError, match=message):
        BuildOptions(**asked).check(TARGETS[target], precision)


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (None, "--compute-capability current: CUDA finds no GPU here; name those to build for"),
        (Gpu("NVIDIA RTX 2080", "7.5", 8192, False), "has no INT8 for 7.5"),
    ],
)
def test_the_gpu_at_hand_must_be_there_and_have_int8(monkeypatch, gpu, message):
    monkeypatch.setattr(build_options, "first_gpu", lambda: gpu)
    with pytest.raises(UserError, match=message):
        BuildOptions(compute_capabilities=("current",)).check(TARGETS["rtx"], "int8")
    monkeypatch.setattr(build_options, "first_gpu", lambda: Gpu("NVIDIA RTX 4090", "8.9", 24576, False))
    BuildOptions(compute_capabilities=("current",)).check(TARGETS["rtx"], "int8")


def test_what_it_offers_is_not():
    BuildOptions().check(TARGETS["cpu"], "int8")
    BuildOptions(float_parts="fp32", swish="polynomial", cpu_blocks="11").check(TARGETS["cpu"], "int8")
    for name in ("cpu", "cpu-ort", "trt"):
        BuildOptions(swish="exact", cpu_blocks="off").check(TARGETS[name], "fp32")
    BuildOptions(compute_capabilities=("8.6",), workspace_mib=64).check(TARGETS["rtx"], "int8")
    BuildOptions(compute_capabilities=("7.5",)).check(TARGETS["rtx"], "fp16")
    asked = BuildOptions(optimization_level=5, version_compatible=True, hardware_compatible=True)
    for name in ("trt", "trt8"):
        asked.check(TARGETS[name], "int8")
    BuildOptions(optimization_level=0, dla="fallback").check(TARGETS["jetson-orin"], "fp16")


def test_the_command_line_says_all_of_them():
    parser = argparse.ArgumentParser()
    add_build_options(parser)
    words = "--compute-capability 8.6 12.0 --workspace-mib 64 --optimization-level 1 --version-compatible"
    given = parser.parse_args([*words.split(), "--hardware-compatible", "--dla", "only", "--swish", "exact"])
    assert read_build_options(given) == BuildOptions(("8.6", "12.0"), 64, 1, True, True, "only", swish="exact")
    assert read_build_options(parser.parse_args([])) == BuildOptions()


def test_a_quarter_of_a_boards_memory_and_no_limit_on_a_gpu_of_its_own(tmp_path):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:        7802176 kB\nMemFree:          123456 kB\n")  # an Orin Nano of 8 GB
    board = Gpu("Orin", "8.7", 7619, True)
    assert default_workspace_mib(board, info) == 7802176 // 1024 // 4 == 1904
    assert default_workspace_mib(board, tmp_path / "none") == 7619 // 4
    assert default_workspace_mib(Gpu("RTX 4090", "8.9", 24564, False), info) is None
    assert default_workspace_mib(None, info) is None


@pytest.mark.parametrize(
    "chosen",
    [
        BuildOptions(),
        BuildOptions(("8.6", "12.0"), 64, 0, True, True, "only"),
        BuildOptions(float_parts="fp32", swish="polynomial", cpu_blocks="5"),
    ],
)
def test_build_options_survive_the_way_through_a_command_line(chosen):
    parser = argparse.ArgumentParser()
    add_build_options(parser)
    assert read_build_options(parser.parse_args(chosen.as_arguments())) == chosen
