"""Tests that boards are known by GPU, device tree and Jetson Linux, from the files that each kind has."""

import doctest

import pytest

from effedge.engines.targets import jetson
from effedge.engines.targets.jetson import Jetson, find_jetson
from tests.deploy.boards import NANO, ORIN, PC, THOR, XAVIER, device_tree, jetson_linux


@pytest.mark.parametrize(
    ("files", "capability", "kind", "l4t"),
    [  # NVIDIA's table of compute capabilities
        (NANO, "5.3", "Nano", "32.7.1"),
        (jetson_linux("32.7.4"), "6.2", "TX2", "32.7.4"),
        (XAVIER, "7.2", "Xavier", "35.4.1"),
        (jetson_linux("35.4.1"), "8.7", "Orin", "35.4.1"),
        (ORIN, "8.7", "Orin", "36.4.3"),
        (THOR, "11.0", "Thor", "38.4.0"),
        (jetson_linux("39.2.0"), "8.7", "Orin", "39.2.0"),
        (jetson_linux("39.2.0"), "11.0", "Thor", "39.2.0"),
    ],
)
def test_the_gpu_tells_the_boards_of_one_jetson_linux_apart(plant, files, capability, kind, l4t):
    plant(files, capability)
    assert find_jetson() == Jetson(kind, capability, l4t)


@pytest.mark.parametrize("files", [{}, jetson_linux("")])
def test_a_container_has_no_release_and_its_gpu_says_what_it_is(plant, files):
    plant(files, "8.7")
    assert find_jetson() == Jetson("Orin", "8.7", None)


@pytest.mark.parametrize(
    ("model", "soc", "kind"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "tegra234", "Orin"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "tegra234", "Orin"),
        ("NVIDIA Jetson Nano Developer Kit", "tegra210", "Nano"),
        ("Jetson-AGX", "tegra194", "Xavier"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "tegra264", "Thor"),
        ("A robot of its own maker", "tegra234", "Orin"),
    ],
)
def test_without_a_gpu_the_device_tree_tells(plant, model, soc, kind):
    plant(device_tree(model, soc))
    assert find_jetson() == Jetson(kind, None, None)


def test_the_model_alone_tells_too(plant):
    plant({"sys/firmware/devicetree/base/model": "NVIDIA Jetson Xavier NX Developer Kit\0"})
    assert find_jetson() == Jetson("Xavier", None, None)


def test_a_release_alone_is_a_jetson_of_an_unknown_kind(plant):
    plant(jetson_linux("35.4.1"))
    board = find_jetson()
    assert board == Jetson(None, None, "35.4.1")
    assert board.describe(None) == (
        "a Jetson of an unknown kind (no GPU answers) with Jetson Linux 35.4.1 and no TensorRT that imports"
    )


@pytest.mark.parametrize(
    ("files", "capability", "integrated"),
    [
        (PC, None, False),
        (PC, "8.9", False),
        (PC, "12.1", True),  # a GB10: integrated, and no Jetson
        (jetson_linux("36.4.3"), "8.9", False),  # an IGX Orin with a card
        ({"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}, None, False),
    ],
)
def test_other_machines_are_none(plant, files, capability, integrated):
    plant(files, capability, integrated=integrated)
    assert find_jetson() is None


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (jetson_linux("40.1.0"), None),
        ({**jetson_linux("40.1.0"), **device_tree("NVIDIA Jetson AGX Thor", "tegra264")}, "Thor"),
    ],
)
def test_a_gpu_that_is_newer_than_the_table_is_the_boards_own(plant, files, kind):
    plant(files, "11.7", integrated=True)
    assert find_jetson() == Jetson(kind, "11.7", "40.1.0")


def test_a_driver_that_calls_the_gpu_discrete_is_believed_less_than_the_board(plant):
    plant(jetson_linux("38.2.0"), "11.0", integrated=False)
    assert find_jetson() == Jetson("Thor", "11.0", "38.2.0")


def test_the_example_is_true():
    assert doctest.testmod(jetson).failed == 0
