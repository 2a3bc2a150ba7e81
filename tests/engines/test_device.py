"""Tests the detected device against the target's row."""

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines import device
from effedge.engines.device import DetectedDevice, backend_version, detect_device
from effedge.engines.targets import TARGETS
from tests.deploy.boards import ORIN, PC, jetson_linux


@pytest.fixture
def pretend(monkeypatch, plant):
    """Returns a function that pretends a device with these files, GPU and versions of backends."""

    def make(files=PC, capability=None, **backends):
        plant(files, capability)
        known = {name: (version, "") for name, version in backends.items()}
        monkeypatch.setattr(
            device, "backend_version", lambda name: known.get(name, (None, f"No module named '{name}'"))
        )
        monkeypatch.setattr(device, "installed_version", lambda row: None)

    return make


@pytest.mark.parametrize(
    ("release", "capability", "tensorrt", "name"),
    [  # NVIDIA's JetPack archive: 5.1.2, 6.0, 6.1, 6.2, 7.0, 7.2
        ("35.4.1", "7.2", "8.5.2.2", "jetson-xavier"),
        ("35.4.1", "8.7", "8.5.2.2", "jetson-orin-jp5"),
        ("36.3.0", "8.7", "8.6.2.3", "jetson-orin-jp6.0"),
        ("36.4.0", "8.7", "10.3.0", "jetson-orin"),
        ("36.4.3", "8.7", "10.7.0", "jetson-orin"),
        ("38.2.0", "11.0", "10.13.3", "jetson-thor"),
        ("39.2.0", "11.0", "10.16.1.11", "jetson-thor"),
        ("39.2.0", "8.7", "10.16.1.11", "jetson-orin-jp7"),
    ],
)
def test_each_board_is_its_targets(pretend, release, capability, tensorrt, name):
    pretend(jetson_linux(release), capability, tensorrt=tensorrt)
    assert detect_device(TARGETS[name]) == DetectedDevice(TARGETS[name], tensorrt, release)
    for other in TARGETS.values():
        if other.jetson and other.name != name:
            with pytest.raises(UserError, match=f"{other.name} .*: make bundle TARGET={name}$"):
                detect_device(other)


def test_a_container_is_its_boards_target(pretend):
    pretend(jetson_linux(""), "8.7", tensorrt="10.3.0")
    assert detect_device(TARGETS["jetson-orin"]) == DetectedDevice(TARGETS["jetson-orin"], "10.3.0", None)


def test_another_jetpack_names_the_target_that_it_is_even_without_its_tensorrt(pretend):
    pretend(jetson_linux("36.3.0"), "8.7")
    expected = r"Jetson Linux 36\.4\.x or 36\.5\.x, and this board is an Orin .*36\.3\.0.*: .*TARGET=jetson-orin-jp6\.0"
    with pytest.raises(UserError, match=expected):
        detect_device(TARGETS["jetson-orin"])


def test_a_jetson_bundle_on_another_machine_is_refused(pretend):
    pretend(tensorrt="10.3.0")
    with pytest.raises(UserError, match=r"jetson-orin .* and this machine is no Jetson"):
        detect_device(TARGETS["jetson-orin"])


def test_a_board_without_tensorrt_or_pycuda_is_told_how_to_get_it(pretend, monkeypatch):
    pretend(ORIN, "8.7")
    with pytest.raises(
        UserError, match=r"jetson-orin cannot run here without tensorrt .*: sudo apt install python3-lib"
    ):
        detect_device(TARGETS["jetson-orin"])
    reason = "ModuleNotFoundError: No module named 'pycuda'"
    monkeypatch.setattr(device, "backend_version", lambda name: (None, reason))
    with pytest.raises(UserError, match=rf"tensorrt \({reason}\): .*pip install pycuda"):
        detect_device(TARGETS["jetson-orin"])


def test_a_tensorrt_that_does_not_start_is_still_known_by_its_version(pretend, monkeypatch):
    """A driver that does not answer hides nothing of what is installed."""
    pretend(jetson_linux("36.4.3"))
    monkeypatch.setattr(device, "installed_version", lambda row: "8.6.2.3")
    with pytest.raises(UserError, match=r"TensorRT 8\.6\.2\.3: make bundle TARGET=jetson-orin-jp6\.0$"):
        detect_device(TARGETS["jetson-orin"])


def test_onnx_runtime_stands_in_for_openvino(pretend):
    pretend(onnxruntime="1.19.2")
    assert detect_device(TARGETS["cpu"]) == DetectedDevice(TARGETS["cpu-ort"], "1.19.2", None)
    pretend(onnxruntime="1.19.2", openvino="2026.4")
    assert detect_device(TARGETS["cpu"]).target is TARGETS["cpu"]


def test_without_any_backend_each_is_named_with_its_reason(pretend):
    pretend()
    reasons = r"openvino \(No module named 'openvino'\) or onnxruntime \(No module named 'onnxruntime'\)"
    expected = f"{reasons}: .*pip install onnxruntime$"
    with pytest.raises(UserError, match=expected):
        detect_device(TARGETS["cpu"])


def test_a_backend_that_ends_the_process_is_no_backend(monkeypatch):
    monkeypatch.setitem(device.PROBES, "openvino", "import os; os.abort()")
    assert backend_version("openvino") == (None, "ends with SIGABRT here")
    monkeypatch.setitem(device.PROBES, "openvino", "import nowhere")
    assert backend_version("openvino") == (None, "ModuleNotFoundError: No module named 'nowhere'")


def test_every_backend_of_the_targets_can_be_probed():
    assert set(device.PROBES) == {row.backend for row in TARGETS.values()}
