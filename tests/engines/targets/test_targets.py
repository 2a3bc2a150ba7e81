"""Tests the choice of a target and the refusals, on machines of each kind."""

import sys

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines import targets
from effedge.engines.targets import TARGETS, check_buildable_here, find_jetson, import_backend, resolve_target
from tests.deploy.boards import NANO, PC, device_tree, jetson_linux

# System files, compute capability, TensorRT and target, by NVIDIA's JetPack archive.
MACHINES = {
    "JetPack 4.6 Nano": (NANO, "5.3", "8.2.1.8", "jetson-nano"),
    "JetPack 5.1 Xavier": (jetson_linux("35.4.1"), "7.2", "8.5.2.2", "jetson-xavier"),
    "JetPack 5.1 Orin": (jetson_linux("35.4.1"), "8.7", "8.5.2.2", "jetson-orin-jp5"),
    "JetPack 6.0": (jetson_linux("36.3.0"), "8.7", "8.6.2.3", "jetson-orin-jp6.0"),
    "JetPack 6.2": (jetson_linux("36.4.3"), "8.7", "10.3.0", "jetson-orin"),
    "JetPack 6.2, TensorRT 10.7": (jetson_linux("36.4.3"), "8.7", "10.7.0", "jetson-orin"),
    "JetPack 7.0 Thor": (jetson_linux("38.2.0"), "11.0", "10.13.3.9", "jetson-thor"),
    "JetPack 7.2 Thor": (jetson_linux("39.2.0"), "11.0", "10.16.1.11", "jetson-thor"),
    "JetPack 7.2 Orin": (jetson_linux("39.2.0"), "8.7", "10.16.1.11", "jetson-orin-jp7"),
    "JetPack 7.2.2 Orin, TensorRT 11": (jetson_linux("39.2.2"), "8.7", "11.4.1.10", "jetson-orin-trt11"),
    "container, empty file": (jetson_linux(""), "8.7", "10.3.0", "jetson-orin"),
    "container, no file": ({}, "7.2", "8.5.2.2", "jetson-xavier"),
    "container of another JetPack than the board's": (jetson_linux("36.4.3"), "8.7", "8.6.2.3", "jetson-orin-jp6.0"),
    "PC": (PC, "8.9", "10.9.0", "trt"),
    "PC, TensorRT 8.6": (PC, "8.9", "8.6.1", "trt8"),
    "PC without TensorRT": (PC, "8.9", None, "cpu"),
    "no GPU": (PC, None, "10.9.0", "cpu"),
    "JetPack 5.0.2": (jetson_linux("35.1.0"), "8.7", "8.4.1.5", "cpu"),
    "TX2": (jetson_linux("32.7.4"), "6.2", "8.2.1.8", "cpu"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_auto_is_the_machines_own_target(plant, capsys, name):
    files, capability, tensorrt, expected = MACHINES[name]
    plant(files, capability, tensorrt, integrated=files is not PC)
    assert resolve_target("auto").name == expected
    assert capsys.readouterr().out.startswith(f"target auto: {expected} (")


@pytest.mark.parametrize("name", [name for name, row in MACHINES.items() if row[3].startswith("jetson")])
def test_a_board_builds_its_own_target_and_no_other(plant, name):
    files, capability, tensorrt, own = MACHINES[name]
    plant(files, capability, tensorrt)
    assert import_backend(TARGETS[own]).__version__ == tensorrt
    for target in TARGETS.values():
        if target.jetson and target.name != own:
            with pytest.raises(UserError, match=rf"{target.name} .*: make engine TARGET={own}$"):
                check_buildable_here(target)


def test_a_refusal_says_what_was_found_and_what_helps(plant):
    plant(jetson_linux("36.3.0"), "8.7", "8.6.2.3")
    with pytest.raises(UserError) as refusal:
        check_buildable_here(TARGETS["jetson-orin"])
    assert str(refusal.value) == (
        "jetson-orin (Orin, JetPack 6.1 or 6.2) is built with tensorrt 10.3.x or 10.4.x or 10.5.x or 10.6.x or 10.7.x, "
        "and this board is an Orin (compute capability 8.7) with Jetson Linux 36.3.0 and TensorRT 8.6.2.3: "
        "make engine TARGET=jetson-orin-jp6.0"
    )


def test_jetpack_5_0_is_updated(plant, capsys):
    plant(jetson_linux("35.1.0"), "7.2", "8.4.1.5")
    with pytest.raises(
        UserError, match=r"a Xavier \(.* 35\.1\.0 and TensorRT 8\.4\.1\.5: .*s/r35\.1/r35\.4/.*nvidia-j"
    ):
        check_buildable_here(TARGETS["jetson-xavier"])
    resolve_target("auto")
    assert "sudo apt dist-upgrade" in capsys.readouterr().out


def test_jetpack_5_0_is_updated_before_a_tensorrt_is_looked_for(plant):
    plant(jetson_linux("35.1.0"), "8.7")
    with pytest.raises(UserError, match=r"no TensorRT that imports: update it to JetPack 5\.1: "):
        check_buildable_here(TARGETS["jetson-orin-jp5"])


def test_a_version_that_only_an_import_tells_is_checked_too(plant, tmp_path):
    plant(jetson_linux("36.4.3"), "8.7", "8.6.2")
    (tmp_path / "8.6.2" / "tensorrt" / "__init__.py").write_text("__version__ = '.'.join('862')\n")
    check_buildable_here(TARGETS["jetson-orin"])
    with pytest.raises(UserError, match=r"TensorRT 8\.6\.2: make engine TARGET=jetson-orin-jp6\.0$"):
        import_backend(TARGETS["jetson-orin"])


@pytest.mark.parametrize(
    ("release", "capability", "tensorrt", "advice"),
    [
        ("32.7.4", "6.2", "8.2.1.8", "there is no target for TensorRT on a TX2; make engine TARGET=cpu"),
        ("32.7.4", "7.2", "8.2.1.8", r"install JetPack 5\.1 \(for jetson-xavier\) from https.*TARGET=cpu"),
        ("35.4.1", None, "8.5.2.2", "make engine TARGET=jetson-orin-jp5"),
    ],
)
def test_a_board_of_another_kind_is_told_its_own_way(plant, release, capability, tensorrt, advice):
    soc = {} if capability else device_tree("NVIDIA Jetson AGX Orin Developer Kit", "tegra234")
    plant({**jetson_linux(release), **soc}, capability, tensorrt)
    with pytest.raises(UserError, match=f"{advice}$"):
        check_buildable_here(TARGETS["jetson-thor"])


def test_where_the_kind_of_board_is_unknown_tensorrt_decides(plant):
    plant(jetson_linux("35.4.1"), None, "8.5.2.2")
    check_buildable_here(TARGETS["jetson-xavier"])
    check_buildable_here(TARGETS["jetson-orin-jp5"])
    with pytest.raises(UserError, match="TARGET=jetson-xavier or jetson-orin-jp5$"):
        check_buildable_here(TARGETS["jetson-orin"])


def test_a_jetson_is_built_on_the_jetson(plant):
    plant(PC, "8.9", "10.3.0", integrated=False)
    with pytest.raises(UserError, match="built on the Jetson itself, and this machine is no Jetson .*--runtime nvidia"):
        check_buildable_here(TARGETS["jetson-orin"])


def test_a_jetson_that_is_newer_than_the_table_is_one_and_its_tensorrt_decides(plant):
    plant(jetson_linux("40.1.0"), "11.7", "10.16.1.11")
    check_buildable_here(TARGETS["jetson-thor"])
    with pytest.raises(UserError, match=r"a Jetson of an unknown kind \(compute capability 11\.7\) .* 40\.1\.0"):
        check_buildable_here(TARGETS["jetson-orin"])
    assert resolve_target("auto").jetson


def test_a_card_in_a_jetsons_slot_is_not_said_to_lack_jetson_linux(plant):
    plant(jetson_linux("36.4.3"), "8.9", "10.3.0", integrated=False)
    with pytest.raises(UserError, match=r"this machine is no Jetson \(GPU 0 is no Jetson's, or none answers and"):
        check_buildable_here(TARGETS["jetson-orin"])


def test_the_board_is_asked_once_for_an_import(plant, monkeypatch):
    plant(jetson_linux("36.4.3"), "8.7", "10.3.0")
    asked = []
    monkeypatch.setattr(targets, "find_jetson", lambda: asked.append(1) or find_jetson())
    import_backend(TARGETS["jetson-orin"])
    assert len(asked) == 1


@pytest.mark.parametrize("release", ["36.4.3", "36.9.0"])  # the second newer than the table
def test_jetpacks_tensorrt_that_this_python_does_not_see_is_pointed_at(plant, capsys, monkeypatch, release):
    monkeypatch.setattr(sys, "prefix", "/home/me/venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    plant({**jetson_linux(release), "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""}, "8.7")
    command = "/usr/bin/python3 -m venv --system-site-packages /home/me/venv"
    with pytest.raises(UserError, match=f"needs the Python package tensorrt, not installed: .*: {command}"):
        check_buildable_here(TARGETS["jetson-orin"])
    assert resolve_target("auto").name == "cpu" and command in capsys.readouterr().out


def test_a_package_that_does_not_import_says_what_is_missing(plant, tmp_path):
    plant(jetson_linux("36.4.3"), "8.7", "10.3.0")
    package = tmp_path / "10.3.0" / "tensorrt" / "__init__.py"
    package.write_text(f"{package.read_text()}raise ImportError('libnvdla_compiler.so: cannot open')\n")
    with pytest.raises(UserError, match=r"libnvdla_compiler\.so: cannot open: sudo apt install nvidia-l4t-dla-comp"):
        import_backend(TARGETS["jetson-orin"])


def test_a_pc_with_another_tensorrt_is_told_the_target_or_the_package(plant):
    plant(PC, "8.9", "8.6.1", integrated=False)
    with pytest.raises(UserError, match=r"trt .* tensorrt 10\.x or 11\.x, and tensorrt 8\.6\.1 is .*TARGET=trt8$"):
        import_backend(TARGETS["trt"])
    plant(PC, "8.9", "8.5.1", integrated=False)
    with pytest.raises(UserError, match=r"8\.5\.1 is installed: .*pip install 'tensorrt==10\.\*', or"):
        import_backend(TARGETS["trt"])


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'jetson-orin'"):
        resolve_target("jetson-orn")


@pytest.mark.parametrize("gpu", [True, False])
def test_engines_for_a_gpu_run_where_one_answers_and_those_for_a_cpu_anywhere(monkeypatch, gpu):
    monkeypatch.setattr(targets, "gpu_answers", lambda: gpu)
    assert targets.runs_here(TARGETS["cpu"])
    assert targets.runs_here(TARGETS["rtx"]) == targets.runs_here(TARGETS["trt"]) == gpu


@pytest.mark.parametrize(("capability", "refused"), [("8.6", True), ("8.9", False), ("9.0", False), ("12.0", False)])
def test_fp8_is_for_gpus_of_compute_capability_8_9_and_later(plant, capability, refused):
    plant(PC, capability, "10.9.0", integrated=False)
    targets.check_gpu("int8", TARGETS["trt"])
    if refused:
        with pytest.raises(UserError, match="GPU has compute capability 8.6, and FP8 needs 8.9 or later: build PREC"):
            targets.check_gpu("fp8", TARGETS["trt"])
    else:
        targets.check_gpu("fp8", TARGETS["trt"])
