"""Board facts, from simulated file trees as boards have them, and that no file can make them fail."""

import json
import random
import sys

import pytest

from effedge.deploy.timing import gpu_facts
from effedge.deploy.timing.board import board, text
from tests.deploy.boards import BOARDS, EAGAIN, ORIN, write_board


def read(tmp_path, name):
    return board(write_board(tmp_path, BOARDS[name]))


def test_nano(tmp_path):
    assert read(tmp_path, "nano") == {
        "l4t": "R32.7.1",
        "power_mode": {"id": 0, "name": "MAXN"},
        "cpu": {"governor": "schedutil", "mhz": [1479, 1479], "limits_mhz": [1479, 1479]},
        "gpus": [{"name": "57000000.gpu", "mhz": 922, "limits_mhz": [922, 922]}],
        "temperatures_c": {"AO-therm": 41.5, "CPU-therm": 34.0, "GPU-therm": 31.0, "PLL-therm": 31.5,
                           "thermal-fan-est": 33.0},
        "throttled_by": [],
        "throttle_counts": {},
    }  # fmt: skip


def test_xavier_in_its_default_mode(tmp_path):
    found = read(tmp_path, "xavier")
    assert found["power_mode"] == {"id": 2, "name": "MODE_15W"} and found["l4t"] == "R35.4.1"
    assert found["cpu"] == {"governor": "schedutil", "mhz": [730, 1190], "limits_mhz": [1190, 1190]}
    assert found["gpus"] == [{"name": "17000000.gv11b", "mhz": 115, "limits_mhz": [115, 676]}]


def test_orin(tmp_path):
    found = read(tmp_path, "orin")
    assert found["power_mode"] == {"id": 2, "name": "MAXN_SUPER"} and found["l4t"] == "R36.4.3"
    assert found["cpu"] == {"governor": "schedutil", "mhz": [1344, 1728], "limits_mhz": [730, 1728]}
    assert found["gpus"] == [{"name": "17000000.gpu", "mhz": 1020, "limits_mhz": [306, 1020]}]
    assert set(found["temperatures_c"]) == {"cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal"}
    assert found["throttled_by"] == ["gpu-throttle-alert"]  # neither the fan nor the warning for people
    assert found["throttle_counts"] == {"under voltage (oc1)": 0, "average over-current (oc2)": 15,
                                        "instantaneous over-current (oc3)": 37}  # fmt: skip


def test_thor(tmp_path):
    found = read(tmp_path, "thor")
    assert found["power_mode"] == {"id": 1, "name": "120W"}
    assert found["gpus"] == [{"name": "gpu-gpc-0", "mhz": 1575, "limits_mhz": [315, 1575]}]
    assert "gpu-thermal" not in found["temperatures_c"] and found["temperatures_c"]["tj-thermal"] == 59.8
    assert found["throttled_by"] == ["devfreq-gpu-gpc-0"]


def test_a_pc(tmp_path):
    found = read(tmp_path, "pc")
    assert found["power_mode"] is None and found["l4t"] is None and found["gpus"] == []
    assert found["cpu"] == {"governor": "powersave", "mhz": [800, 4700], "limits_mhz": [800, 5000]}
    assert found["temperatures_c"] == {"x86-pkg-temp": 51.0, "acpitz": 27.8, "coretemp": 53.0}
    assert found["throttle_counts"] == {"CPU core too hot": 5, "CPU package too hot": 12}


def test_no_file_no_fact(tmp_path):
    assert board(tmp_path) == {"l4t": None, "power_mode": None, "cpu": None, "gpus": [], "temperatures_c": {},
                               "throttled_by": [], "throttle_counts": {}}  # fmt: skip


def test_a_mode_without_a_name(tmp_path):
    write_board(tmp_path, {"var/lib/nvpmodel/status": "pmode:0007"})
    assert board(tmp_path)["power_mode"] == {"id": 7, "name": None}


@pytest.mark.parametrize("seed", range(40))
def test_no_content_makes_it_fail(tmp_path, seed):
    """Files gone, unreadable, empty, cut, of other text or bytes: what is left is a report that JSON can hold."""
    draw = random.Random(seed)
    files = {}
    for name, content in {**BOARDS[draw.choice(sorted(BOARDS))], **ORIN}.items():
        choice = draw.randrange(6)
        if choice == 0:
            continue
        files[name] = [content, EAGAIN, "", "nonsense\n", (content or "x")[:3]][choice - 1]
    write_board(tmp_path, files)
    for path in list(tmp_path.rglob("*")):
        if path.is_file() and draw.random() < 0.2:
            path.write_bytes(bytes(draw.randrange(256) for _ in range(20)))
    json.dumps(board(tmp_path), allow_nan=False)


def test_a_sensor_that_is_off(monkeypatch, tmp_path):
    for error in (BlockingIOError(11, "Resource temporarily unavailable"), TypeError("can't concat NoneType to bytes")):

        def read_bytes(_, error=error):
            raise error

        monkeypatch.setattr(type(tmp_path), "read_bytes", read_bytes)
        assert text(tmp_path / "temp") == ""


def test_this_machine_has_a_board_too():
    json.dumps(board(), allow_nan=False)


@pytest.fixture
def nvml(monkeypatch):
    """The real package nvidia-ml-py, with a simulated GPU: a function that it does not have cannot be set."""
    pynvml = pytest.importorskip("pynvml")
    answers = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4070", "nvmlSystemGetDriverVersion": "580.65.06",
        "nvmlDeviceGetMaxClockInfo": 3105, "nvmlDeviceGetTemperature": 66, "nvmlDeviceGetPowerUsage": 184321,
        "nvmlDeviceGetEnforcedPowerLimit": 200000,
        "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap
        | pynvml.nvmlClocksEventReasonGpuIdle | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    clocks = {pynvml.NVML_CLOCK_SM: 2610, pynvml.NVML_CLOCK_MEM: 10501}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", lambda _, which: clocks[which])
    return pynvml


def test_a_desktops_gpu(nvml):
    assert gpu_facts.gpus() == [{
        "name": "NVIDIA GeForce RTX 4070", "driver": "580.65.06", "mhz": 2610, "memory_mhz": 10501,
        "limits_mhz": [0, 3105], "temperature_c": 66, "power_w": 184.3, "power_limit_w": 200,
        "throttled_by": ["power cap", "too hot (hardware)"],
    }]  # fmt: skip


def test_what_a_gpu_does_not_tell_is_left_out(nvml, monkeypatch):
    def unsupported(*_):
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)

    for name in (
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetCurrentClocksEventReasons",
    ):
        monkeypatch.setattr(nvml, name, unsupported)
    monkeypatch.setattr(
        nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: 0x40, raising=False
    )  # of before 535
    [found] = gpu_facts.gpus()
    assert "power_w" not in found and found["mhz"] == 2610 and found["throttled_by"] == ["too hot (hardware)"]


def test_no_driver_or_no_package_no_gpu(monkeypatch):
    assert gpu_facts.gpus() == [] or pytest.importorskip("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_facts.gpus() == []
