"""Runs of an engine, step by step and by a CUDA graph, against a GPU and a TensorRT that compute on the host."""

import re

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from tests.deploy.fake_cuda import FakeCuda
from tests.deploy.runtime.tensorrt.engines import adder


def test_each_batch_size_runs_and_earlier_results_may_be_kept(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    first = infer({"image": np.full((4, 2, 2, 3), 1, np.uint8)})
    second = infer({"image": np.full((1, 2, 2, 3), 5, np.uint8)})
    assert first["sums"].tolist() == [[12, 12]] * 4
    assert second["sums"].tolist() == [[60, 60]]


def test_the_second_run_of_a_shape_is_recorded_and_the_third_is_one_launch(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    expected = [["upload", "engine", "download"], ["record upload", "record engine", "record download", "graph"]]
    expected += [["graph"], ["upload", "engine", "download"]]
    for value, (batch, events) in enumerate(zip([2, 2, 2, 3], expected)):
        cuda.events.clear()
        outputs = infer({"image": np.full((batch, 2, 2, 3), value, np.uint8)})
        assert outputs["sums"].tolist() == [[12.0 * value] * 2] * batch
        assert cuda.events == events
    assert cuda.graphs == {}  # the one for the shape before is gone


def test_an_integrated_gpu_reads_the_inputs_where_they_are(pretend):
    cuda = FakeCuda(integrated=True)
    infer = pretend(cuda, adder(cuda))()
    for value in range(4):
        assert infer({"image": np.full((2, 2, 2, 3), value, np.uint8)})["sums"].tolist() == [[12.0 * value] * 2] * 2
    assert not [event for event in cuda.events if "upload" in event]


def test_what_cannot_be_recorded_runs_step_by_step_and_a_line_says_so(pretend, capsys):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    cuda.failures["cuStreamEndCapture"] = 901
    infer = load()
    for value in range(4):
        assert infer({"image": np.full((1, 2, 2, 3), value, np.uint8)})["sums"].tolist() == [[12.0 * value] * 2]
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"note: '.*engine\.plan' runs without a CUDA graph, .*: cuStreamEndCapture failed: .* 901", line
    )


def test_a_plain_error_of_cuda_while_a_run_is_recorded_does_not_end_it(pretend, capsys):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    infer = load()
    from effedge.deploy.runtime.tensorrt.gpu import cuda as driver

    slot = infer.loaded.slots[0]
    recorded, plain = [], slot.enqueue_engine

    def fails_while_recording():
        if cuda.streams[slot.stream.handle].recorded is not None:
            recorded.append(1)
            raise driver.Error("operation not permitted when stream is capturing")
        plain()

    slot.enqueue_engine = fails_while_recording
    for value in range(4):
        assert infer({"image": np.full((1, 2, 2, 3), value, np.uint8)})["sums"].tolist() == [[12.0 * value] * 2]
    assert len(recorded) == 1 and "runs without a CUDA graph" in capsys.readouterr().err


def test_a_shape_that_the_plan_was_not_built_for_is_one_line(pretend):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    infer = load()
    infer.loaded.slots[0].context.set_input_shape = lambda name, shape: False
    with pytest.raises(
        UserError, match=r"does not take input 'image' of shape \[2, 2, 2, 3\] \(.*\): build the engine"
    ):
        infer({"image": np.ones((2, 2, 2, 3), np.uint8)})


def test_an_output_that_numpy_cannot_hold_is_refused(pretend):
    cuda = FakeCuda()
    with pytest.raises(UserError, match=r"tensor 'sums' of .* is FP8 \[4, 2\]"):
        pretend(cuda, adder(cuda, "fp8"))()


def test_a_gpu_that_is_lost_is_one_line_in_each_way_of_running(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    image = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
    for runs in (0, 1, 2):
        for _ in range(runs):
            infer(image)
        cuda.lost = True
        with pytest.raises(UserError, match=r"Pretended failed while it ran .*launch failure.*dmesg"):
            infer(image)
        cuda.lost = False


def test_what_tensorrt_cannot_run_is_one_line_with_its_reason(pretend):
    cuda = FakeCuda()
    engine = adder(cuda)
    engine.runs = False
    with pytest.raises(UserError, match=r"could not run .* on Pretended \(.*Error Code 1.*\): .*build the engine"):
        pretend(cuda, engine)()({"image": np.zeros((1, 2, 2, 3), np.uint8)})


def test_a_run_with_a_dla_is_not_recorded_and_a_line_says_so(pretend, capsys):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    load.args[1]["backend"]["dla"] = {"core": 0, "mode": "fallback", "on_gpu": []}
    infer = load()
    assert re.fullmatch(r"note: '.*' runs without a CUDA graph, .* uses a DLA, .*\n", capsys.readouterr().err)
    for value in range(4):
        assert infer({"image": np.full((1, 2, 2, 3), value, np.uint8)})["sums"].tolist() == [[12.0 * value] * 2]
    assert set(cuda.events) == {"upload", "engine", "download"}
