"""Tests the detected device against the target's row."""

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines import device, targets
from effedge.engines.device import DetectedDevice, backend_version, detect_device, l4t_release
from effedge.engines.targets import TARGETS

# Of an Orin with JetPack 6.2, as NVIDIA writes it.
NV_TEGRA_RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Returns a function that pretends a device with this nv_tegra_release and these versions of backends."""

    def make(release=None, **backends):
        path = tmp_path / "nv_tegra_release"
        if release is not None:
            path.write_text(release)
        monkeypatch.setattr(targets, "L4T_RELEASE", path)
        known = {name: (version, "") for name, version in backends.items()}
        monkeypatch.setattr(
            device, "backend_version", lambda name: known.get(name, (None, f"No module named '{name}'"))
        )

    return make


def jetson_linux(release):
    major, _, rest = release.partition(".")
    return f"# R{major} (release), REVISION: {rest}, GCID: 1, BOARD: generic\n"


def test_jetson_linux_is_read_as_nvidia_writes_it(pretend):
    pretend(NV_TEGRA_RELEASE)
    assert l4t_release() == "36.4.3"


@pytest.mark.parametrize(
    ("release", "tensorrt", "name"),
    [  # NVIDIA's JetPack archive: 5.1.2, 6.0, 6.1, 6.2, 7.0
        ("35.4.1", "8.5.2.2", "jetson-xavier"),
        ("35.4.1", "8.5.2.2", "jetson-orin-jp5"),
        ("36.3.0", "8.6.2.3", "jetson-orin-jp6.0"),
        ("36.4.0", "10.3.0", "jetson-orin"),
        ("36.4.3", "10.3.0", "jetson-orin"),
        ("38.2.0", "10.13.3", "jetson-thor"),
    ],
)
def test_each_jetpack_is_its_targets(pretend, release, tensorrt, name):
    pretend(jetson_linux(release), tensorrt=tensorrt)
    assert detect_device(TARGETS[name]) == DetectedDevice(TARGETS[name], tensorrt, release)


def test_another_jetpack_names_the_target_that_it_is(pretend):
    pretend(jetson_linux("36.3.0"), tensorrt="8.6.2")
    expected = (
        r"jetson-orin .*Jetson Linux 36\.4\.x or 36\.5\.x\), and this board has 36\.3\.0: .*TARGET=jetson-orin-jp6\.0"
    )
    with pytest.raises(UserError, match=expected):
        detect_device(TARGETS["jetson-orin"])


def test_a_jetson_bundle_on_another_machine_is_refused(pretend):
    pretend(tensorrt="10.3.0")
    with pytest.raises(UserError, match=r"jetson-orin .* and this machine is no Jetson"):
        detect_device(TARGETS["jetson-orin"])


def test_another_tensorrt_is_refused(pretend):
    pretend(jetson_linux("36.4.3"), tensorrt="8.6.2")
    with pytest.raises(UserError, match=r"jetson-orin .*with tensorrt 10\.3\.x, and 8\.6\.2 is here"):
        detect_device(TARGETS["jetson-orin"])


def test_onnx_runtime_stands_in_for_openvino(pretend):
    pretend(onnxruntime="1.19.2")
    assert detect_device(TARGETS["cpu"]) == DetectedDevice(TARGETS["cpu-ort"], "1.19.2", None)
    pretend(onnxruntime="1.19.2", openvino="2026.4")
    assert detect_device(TARGETS["cpu"]).target is TARGETS["cpu"]


def test_without_any_backend_each_is_named_with_its_reason(pretend):
    pretend()
    expected = r"openvino \(No module named 'openvino'\) or onnxruntime \(No module named 'onnxruntime'\): install one"
    with pytest.raises(UserError, match=expected):
        detect_device(TARGETS["cpu"])


def test_a_backend_that_ends_the_process_is_no_backend(monkeypatch):
    monkeypatch.setitem(device.PROBES, "openvino", "import os; os.abort()")
    assert backend_version("openvino") == (None, "ends with SIGABRT here")
    monkeypatch.setitem(device.PROBES, "openvino", "import nowhere")
    assert backend_version("openvino") == (None, "ModuleNotFoundError: No module named 'nowhere'")


def test_every_backend_of_the_targets_can_be_probed():
    assert set(device.PROBES) == {row.backend for row in TARGETS.values()}
