"""Faults planted on simulated boards: each ends in one line, and an engine that was installed earlier serves on."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest

from tests.simulated_board.board import JETPACK_51, JETPACK_62, JETPACK_72, KINDS
from tests.simulated_board.bundles import small_bundle
from tests.simulated_board.conftest import deploy, engine_digest, error_of, predict, start_deploy

pytestmark = pytest.mark.slow
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@pytest.fixture
def installed(start, tmp_path):
    """installed(kind): a board with an engine, that engine's bundle, and another bundle of the same name."""

    def install(kind, **options):
        board = start(kind, **options)
        first = small_bundle(tmp_path / "first" / "net", kind.target)
        second = small_bundle(tmp_path / "second" / "net", kind.target, seed=1)
        done = deploy(board, first)
        assert done.returncode == 0, done.stdout + done.stderr
        return board, first, second

    return install


class Unchanged:
    """A block in which the engine that was installed before it serves on."""

    def __init__(self, board, archive):
        self.board, self.archive = board, archive
        self.before = self.now()

    def now(self):
        return engine_digest(self.board, self.archive), predict(self.board, self.archive)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert self.now() == self.before


@by_kind
def test_another_bundle_of_the_name_takes_the_place_of_the_first(kind, installed):
    board, first, second = installed(kind)
    before = engine_digest(board, first), predict(board, first)
    done = deploy(board, second)
    assert done.returncode == 0, done.stdout + done.stderr
    after = engine_digest(board, second), predict(board, second)
    assert after[0] != before[0] and after[1] != before[1]


@by_kind
def test_a_build_that_finds_no_kernel_is_one_line(kind, installed):
    board, first, second = installed(kind)
    board.gpu.no_implementation = lambda node: node.op_type == "Conv"
    with Unchanged(board, first):
        line = error_of(deploy(board, second))
    assert "Could not find any implementation for node" in line and "the earlier engine stays" in line
    board.gpu.no_implementation = lambda node: False
    assert deploy(board, second).returncode == 0


def test_plan_b_is_built_where_tensorrt_has_no_int8_depthwise_convolution(start, tmp_path):
    """NVIDIA/TensorRT#3385, on 8.5."""
    board = start(JETPACK_51)
    archive = small_bundle(tmp_path / "net", JETPACK_51.target)

    def in_int8(node):
        return node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute) and (
            "dq" in node.input[0]
        )  # fmt: skip

    board.gpu.no_implementation = in_int8
    done = deploy(board, archive)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is plan B, with 2 more layers in 16 bit" in done.stdout
    assert "1 int8" in done.stdout.splitlines()[-2], done.stdout


@by_kind
def test_a_self_test_that_disagrees_is_one_line(kind, installed):
    board, first, second = installed(kind)
    with Unchanged(board, first):
        board.gpu.spoil = lambda outputs: {name: values[..., ::-1] * 9 for name, values in outputs.items()}
        line = error_of(deploy(board, second))
        board.gpu.spoil = lambda outputs: outputs
    assert "the engine does not find what" in line and "the earlier engine stays" in line


def but_for_the_best(outputs):
    """Turns the logits around, but for the largest, which keeps its class and its probability."""
    turned = {}
    for name, values in outputs.items():
        rows = values.copy()
        for row in rows.reshape(-1, values.shape[-1]):
            others = row < row.max()
            row[others] = row[others][::-1]
        turned[name] = rows
    return turned


def test_an_engine_whose_outputs_are_wrong_below_the_best_is_one_line(installed):
    board, first, second = installed(JETPACK_62)
    with Unchanged(board, first):
        board.gpu.spoil = but_for_the_best
        line = error_of(deploy(board, second))
        board.gpu.spoil = lambda outputs: outputs
    assert "output 'logits' of the engine is " in line and "dB from the reference's" in line, line
    assert "the earlier engine stays" in line


def test_an_engine_that_returns_nan_is_one_line(start, tmp_path):
    board = start(JETPACK_62)
    board.gpu.spoil = lambda outputs: {name: values * float("nan") for name, values in outputs.items()}
    assert "not finite: build it with fp32" in error_of(deploy(board, small_bundle(tmp_path / "net", "jetson-orin")))


def test_a_connection_lost_in_the_copy_goes_on_where_it_broke(installed):
    board, first, second = installed(JETPACK_62)
    with Unchanged(board, first):
        line = error_of(deploy(board, second, CUT="60000"))
    assert "the connection to 'nvidia@board' broke" in line and "run the same command to go on" in line
    done = deploy(board, second)
    assert done.returncode == 0 and "going on at 0.1 MiB" in done.stdout


def test_a_connection_lost_in_the_build_leaves_it_running(installed):
    board, first, second = installed(JETPACK_72)
    board.gpu.finish_build.clear()
    with Unchanged(board, first):
        assert "the connection to 'nvidia@board' broke" in error_of(deploy(board, second, STOP="engine: making"))
        builds = board.gpu.builds
        watching = start_deploy(board, second)  # it finds the installation running
    board.gpu.finish_build.set()
    stdout, stderr = watching.communicate(timeout=120)
    assert watching.returncode == 0, stdout + stderr
    assert "running there already" in stdout and board.gpu.builds == builds + 1


def test_no_space_for_the_copy_is_one_line_before_it(start, tmp_path):
    board = start(JETPACK_62, disk_mib=1)
    board.run("head -c 800000 /dev/zero > filled")
    line = error_of(deploy(board, small_bundle(tmp_path / "net", "jetson-orin")))
    assert "are free on 'nvidia@board'" in line and "make room there" in line


def test_no_space_in_the_build_is_one_line(installed):
    board, first, second = installed(JETPACK_62, disk_mib=16)
    board.gpu.finish_build.clear()
    board.gpu.building.clear()
    with Unchanged(board, first):
        running = start_deploy(board, second)
        assert board.gpu.building.wait(60)
        board.run("cat /dev/zero > filled")
        board.gpu.finish_build.set()
        _, stderr = running.communicate(timeout=120)
        board.run("rm filled")
    assert running.returncode == 2 and stderr.count("\n") == 1, stderr
    assert "No space left on device" in stderr and "room" in stderr
    assert deploy(board, second).returncode == 0


@pytest.mark.parametrize("how", ["kill -9", "power"])
def test_an_installation_that_is_killed_is_made_whole_by_the_next_run(installed, how):
    board, first, second = installed(JETPACK_62)
    state = Unchanged(board, first)
    board.gpu.finish_build.clear()
    board.gpu.building.clear()
    running = start_deploy(board, second)
    assert board.gpu.building.wait(60)
    if how == "power":
        board.cut_power()
        board.start()
    else:
        board.kill("effedge")
        board.kill("install.sh")
    board.gpu.finish_build.set()
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 2 and stderr.count("\n") == 1 and stderr.startswith("error: "), stderr
    with state:
        pass
    done = deploy(board, second)
    assert done.returncode == 0, done.stdout + done.stderr
    assert engine_digest(board, second) != state.before[0]
    leftovers = board.run("ls -A effedge").stdout.split()
    assert [name for name in leftovers if name.endswith((".part", ".new", "-link"))] == []


def test_another_tensorrt_than_the_jetpacks_is_one_line(start, tmp_path):
    board = start(replace(JETPACK_62, tensorrt="8.5.2.2"))
    line = error_of(deploy(board, small_bundle(tmp_path / "net", "jetson-orin")))
    assert "8.5.2" in line and "TARGET=jetson-orin" in line, line


@pytest.mark.parametrize(
    ("kind", "target", "right"),
    [(JETPACK_62, "jetson-xavier", "jetson-orin"), (JETPACK_51, "jetson-orin", "jetson-xavier"),
     (JETPACK_72, "jetson-orin-jp7", "jetson-thor"), (JETPACK_51, "jetson-orin-jp5", "jetson-xavier")],
    ids=lambda value: getattr(value, "name", value),
)  # fmt: skip
def test_another_board_is_one_line_with_the_right_target(kind, target, right, start, tmp_path):
    line = error_of(deploy(start(kind), small_bundle(tmp_path / "net", target)))
    assert f"TARGET={right}" in line, line


def test_without_pycuda_and_libcuda_is_one_line(start, tmp_path):
    board = start(replace(JETPACK_62, libcuda=False))
    line = error_of(deploy(board, small_bundle(tmp_path / "net", "jetson-orin")))
    assert "libcuda.so.1" in line, line


def test_a_gpu_without_memory_left_is_one_line(start, tmp_path):
    board = start(replace(JETPACK_62, gpu=("Orin", "8.7", 0)))
    line = error_of(deploy(board, small_bundle(tmp_path / "net", "jetson-orin")))
    assert "no memory left on Orin" in line, line


def test_two_deployments_at_once_do_not_disturb_each_other(installed):
    board, first, second = installed(JETPACK_62)
    board.gpu.finish_build.clear()
    board.gpu.building.clear()
    one = start_deploy(board, second)
    assert board.gpu.building.wait(60)
    line = error_of(deploy(board, first))
    assert "is being installed there" in line
    board.gpu.finish_build.set()
    assert one.wait(120) == 0


def test_a_board_ends_with_all_of_its_processes(start):
    board = start(JETPACK_62)
    sleeper = subprocess.Popen([str(board.folder / "bin/ssh"), "board", "exec sleep 1000"])
    time.sleep(0.3)
    assert sleeper.poll() is None
    board.cut_power()
    assert sleeper.wait(10) != 0
