"""The GPU backend against a GPU and a TensorRT that compute on the host (fake_cuda.py)."""

import functools
import hashlib
import json
import re
import sys
import threading

import numpy as np
import pytest

from effedge import Detector
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.parallel import ordered_map
from effedge.deploy.runtime.backends import load_backend
from tests.deploy.fake_cuda import FakeCuda, FakeEngine, fake_tensorrt

MODULES = (
    "effedge.deploy.runtime.tensorrt.backend",
    "effedge.deploy.runtime.tensorrt.detector_steps",
    "effedge.deploy.runtime.tensorrt.execution_slot",
    "effedge.deploy.runtime.tensorrt.gpu",
)
SIZE, CANDIDATES = (48, 64), 120


def sums(feeds):
    return {"sums": np.repeat(feeds["image"].astype(np.float32).sum((1, 2, 3))[:, None], 2, 1)}


def adder(cuda, kind=np.float32, batch=-1):
    """An engine that adds up each image's bytes."""
    tensors = {"image": ("in", (batch, 2, 2, 3), np.uint8), "sums": ("out", (batch, 2), kind)}
    return FakeEngine(cuda, tensors, sums)


def synthetic_candidates(feeds):
    """Boxes, scores and classes that are a hash of each image's bytes; some boxes reach beyond the image."""
    rows = {"boxes": [], "scores": [], "classes": []}
    for image in feeds["image"]:
        random = np.random.default_rng(np.frombuffer(image.tobytes(), np.uint8).astype(np.uint64).cumsum()[::997])
        corner = random.uniform(-5, 60, (CANDIDATES, 2))
        boxes = np.concatenate([corner, corner + random.uniform(1, 30, (CANDIDATES, 2))], 1)
        rows["boxes"].append(np.round(boxes).astype(np.float32))
        rows["scores"].append(np.round(random.uniform(0, 1, CANDIDATES), 2).astype(np.float32))
        rows["classes"].append(random.integers(0, 2, CANDIDATES).astype(np.int32))
    return {name: np.stack(values) for name, values in rows.items()}


def finder(cuda, batch=-1):
    """A detector's engine that returns the synthetic candidates."""
    tensors = {
        "image": ("in", (batch, *SIZE, 3), np.uint8),
        "boxes": ("out", (batch, CANDIDATES, 4), np.float32),
        "scores": ("out", (batch, CANDIDATES), np.float32),
        "classes": ("out", (batch, CANDIDATES), np.int32),
    }
    return FakeEngine(cuda, tensors, synthetic_candidates)


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """pretend(cuda, engine, ...) replaces TensorRT and CUDA by stand-ins; returns load(throughput=False)."""
    used = []

    def make(cuda, engine, version="10.3.0", name="tensorrt", **attributes):
        used.append(cuda)
        trt = fake_tensorrt(engine, version, name)
        trt.__dict__.update(attributes)
        for module in MODULES:
            sys.modules.pop(module, None)
        for module, stand_in in cuda.modules(trt).items():
            monkeypatch.setitem(sys.modules, module, stand_in)
        import effedge.deploy.runtime.tensorrt.gpu

        monkeypatch.setattr(effedge.deploy.runtime.tensorrt.gpu, "libcuda", lambda: cuda)
        (tmp_path / "engine.plan").write_bytes(b"plan")
        manifest = {"engine": "engine.plan", "backend": {"name": name, "version": "10.7"}}
        return functools.partial(load_backend, tmp_path, manifest)

    yield make
    for cuda in used:
        assert cuda.pushed == []  # no context is current any more
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, as if nvcc had compiled them."""
    import effedge.deploy.native.cuda.kernels

    monkeypatch.setattr(
        effedge.deploy.native.cuda.kernels,
        "compile_cubin",
        lambda name, architecture: f"{name} {architecture}".encode(),
    )


def write_detector(folder, name="tensorrt", batch=(1, 2, 4)):
    image = {"size": list(SIZE), "batch": list(batch), "interpolation": "bilinear", "resize": "letterbox"}
    spec = {"model": "tiny", "task": "detection", "labels": ["a", "b"], "input": {**image, "fill": [9, 8, 250]}}
    manifest = {"format": 1, "spec": spec, "backend": {"name": name}, "engine": "engine.plan"}
    (folder / "engine.plan").write_bytes(b"plan")
    digest = hashlib.sha256(b"plan").hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {"engine.plan": digest}}))


def random_images(seed, count, shapes=None):
    random = np.random.default_rng(seed)
    shapes = shapes or [tuple(random.integers(1, 90, 2).tolist()) for _ in range(count)]
    return [random.integers(0, 256, (*shapes[index % len(shapes)], 3), np.uint8) for index in range(count)]


def on_the_cpu(folder, images, **options):
    """The same engine with letterbox and NMS by Pillow and NumPy."""
    detector = Detector(folder, **options)
    detector.engine.fused = None
    detector.engine.set_backend(synthetic_candidates, 1)
    return list(detector(images))


def assert_same(detections, expected):
    assert len(detections) == len(expected)
    for row, expected_row in zip(detections, expected):
        np.testing.assert_array_equal(row.boxes, expected_row.boxes)
        np.testing.assert_array_equal(row.scores, expected_row.scores)
        assert row.names == expected_row.names
    assert sum(map(len, expected)) > 5 * len(expected)


@pytest.mark.parametrize("compatible", [False, True])
def test_only_a_version_compatible_plan_may_bring_code(pretend, compatible):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    load.args[1]["backend"]["version_compatible"] = compatible
    assert getattr(load().runtime, "engine_host_code_allowed", False) is compatible


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


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 2, 4), (3, 3, 3)])
def test_detections_are_those_of_pillow_and_numpy_whatever_the_sizes(
    pretend, kernels, host_kernels, tmp_path, integrated, batch
):
    cuda = FakeCuda(host_kernels, integrated)
    pretend(cuda, finder(cuda, batch[0] if batch[0] == batch[2] else -1))
    write_detector(tmp_path, batch=batch)
    images = random_images(0, 41) + random_images(1, 30, [(40, 70)]) + random_images(2, 12, [(48, 64), (5, 3)])
    options = {"threshold": 0.1, "iou": 0.4, "max_detections": 30}
    detections = list(Detector(tmp_path, **options)(images))
    assert "nms" in cuda.events and "graph" in cuda.events
    assert_same(detections, on_the_cpu(tmp_path, images, **options))


def test_arrays_and_images_may_alternate(pretend, kernels, host_kernels, tmp_path):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    detector, images = Detector(tmp_path), random_images(3, 2, [(30, 50)])
    array = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    expected, plain = on_the_cpu(tmp_path, images), synthetic_candidates({"image": array})
    for _ in range(3):
        assert_same(list(detector(images)), expected)
        np.testing.assert_array_equal(detector.engine.backend({"image": array})["boxes"], plain["boxes"])


def test_two_slots_run_at_once_in_throughput_mode(pretend, kernels, host_kernels, tmp_path):
    both = threading.Barrier(2, timeout=20)  # passed only by two runs that are under way together

    def infer(feeds):
        both.wait()
        return synthetic_candidates(feeds)

    cuda = FakeCuda(host_kernels)
    engine = finder(cuda)
    pretend(cuda, engine)
    write_detector(tmp_path, batch=(1, 1, 1))
    images = random_images(4, 60, [(40, 70), (40, 70), (20, 9)])
    expected = on_the_cpu(tmp_path, images)
    engine.infer = infer
    detector = Detector(tmp_path, throughput=True)
    assert detector.engine.parallel == 2
    assert_same(list(detector(images)), expected)


def test_more_threads_than_slots_wait_for_an_idle_one(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))(throughput=True)
    add = functools.partial(np.full, (1, 2, 2, 3), dtype=np.uint8)
    sums = ordered_map(lambda value: infer({"image": add(value)})["sums"][0, 0], range(200), 7)
    assert list(sums) == [12 * value for value in range(200)]


@pytest.mark.parametrize(("version", "slots"), [("8.5.2.2", 1), ("8.6.1", 1), ("10.3.0", 2), ("11.0.0", 2)])
def test_before_10_a_dynamic_batch_has_one_slot(pretend, version, slots):
    cuda = FakeCuda()
    assert pretend(cuda, adder(cuda), version)(throughput=True).parallel == slots
    assert pretend(cuda, adder(cuda, batch=1), version)(throughput=True).parallel == 2
    assert pretend(cuda, adder(cuda, batch=1), version)().parallel == 1


def test_without_nvcc_the_steps_run_on_the_cpu_and_a_line_says_so(pretend, tmp_path, monkeypatch, capsys):
    import effedge.deploy.native.cuda.kernels

    monkeypatch.setattr(
        effedge.deploy.native.cuda.kernels, "find_nvcc", lambda: (_ for _ in ()).throw(UserError("nvcc is nowhere"))
    )
    cuda = FakeCuda()
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    images = random_images(5, 9)
    detections = list(Detector(tmp_path)(images))
    assert capsys.readouterr().err == "note: letterbox and NMS run on the CPU: nvcc is nowhere\n"
    assert "nms" not in cuda.events and "engine" in cuda.events
    assert_same(detections, on_the_cpu(tmp_path, images))


def test_what_cannot_be_recorded_runs_step_by_step_and_a_line_says_so(pretend, capsys):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    cuda.cuStreamEndCapture = lambda stream, graph: cuda.end_capture(stream, graph) or 901
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
    slot = infer.slots[0]
    recorded, plain = [], slot.enqueue_engine

    def fails_while_recording():
        if cuda.streams[slot.stream.handle].recorded is not None:
            recorded.append(1)
            raise sys.modules["pycuda.driver"].Error("operation not permitted when stream is capturing")
        plain()

    slot.enqueue_engine = fails_while_recording
    for value in range(4):
        assert infer({"image": np.full((1, 2, 2, 3), value, np.uint8)})["sums"].tolist() == [[12.0 * value] * 2]
    assert len(recorded) == 1 and "runs without a CUDA graph" in capsys.readouterr().err


def test_a_shape_that_the_plan_was_not_built_for_is_one_line(pretend):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    infer = load()
    infer.slots[0].context.set_input_shape = lambda name, shape: False
    with pytest.raises(
        UserError, match=r"does not take input 'image' of shape \[2, 2, 2, 3\] \(.*\): build the engine"
    ):
        infer({"image": np.ones((2, 2, 2, 3), np.uint8)})


def test_all_engines_of_a_process_share_one_context_that_is_released_at_the_end(pretend, monkeypatch):
    at_the_end = []
    monkeypatch.setattr("atexit.register", at_the_end.append)
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    for engine in (load(), load()):
        assert engine({"image": np.ones((1, 2, 2, 3), np.uint8)})["sums"].tolist() == [[12, 12]]
    assert len(cuda.retained) == 1
    assert [function.__name__ for function in at_the_end] == ["<lambda>"]  # the context's detach


def test_an_output_that_numpy_cannot_hold_is_refused(pretend):
    cuda = FakeCuda()
    with pytest.raises(UserError, match=r"tensor 'sums' of .* is FP8 \[4, 2\]"):
        pretend(cuda, adder(cuda, "fp8"))()


def test_a_plan_of_another_version_is_one_line_with_tensorrts_reason(pretend):
    with pytest.raises(UserError, match=r"10\.3\.0 on Pretended cannot load .*built by 10\.7 \(.*needs.*this machine"):
        pretend(FakeCuda(), None)()


def test_the_real_tensorrt_rtx_refuses_what_is_no_plan_in_one_line(pretend):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    load = pretend(FakeCuda(), None, rtx.__version__, "tensorrt_rtx", **vars(rtx))
    with pytest.raises(UserError, match=r"cannot load .*Error Code.*: build the engine on this machine") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_machine_without_a_gpu_is_one_line(pretend, monkeypatch):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))

    def nothing():
        raise cuda.LogicError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(sys.modules["pycuda.driver"], "init", nothing)
    with pytest.raises(UserError, match=r"engine\.plan' needs an NVIDIA GPU, and CUDA finds none \(cuInit failed"):
        load()


def test_no_memory_is_one_line_wherever_it_runs_out(pretend, kernels, host_kernels, tmp_path):
    cuda = FakeCuda(capacity=50)
    with pytest.raises(UserError, match=r"no memory left on Pretended for .*engine\.plan' \(cuMemAlloc.*smaller batch"):
        pretend(cuda, adder(cuda))()
    cuda = FakeCuda()
    engine = adder(cuda)
    engine.contexts_left = 1
    with pytest.raises(UserError, match=r"no memory left on Pretended to run .*takes 5 MiB beside its weights"):
        pretend(cuda, engine)(throughput=True)
    cuda = FakeCuda(host_kernels, capacity=300_000)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    detector, small = Detector(tmp_path), random_images(0, 1, [(40, 40)])
    expected = list(detector(small))
    list(detector(small))  # recorded
    with pytest.raises(UserError, match="no memory left"):
        list(detector(random_images(0, 1, [(400, 400)])))
    for _ in range(3):  # what fitted before fits after that
        assert_same(list(detector(small)), expected)


def test_a_graph_is_not_used_again_when_only_half_of_the_memory_could_be_had(pretend, kernels, host_kernels, tmp_path):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    detector = Detector(tmp_path)
    first, second = random_images(0, 2, [(40, 40)])
    expected = on_the_cpu(tmp_path, [second])
    for _ in range(2):
        list(detector([first]))
    cuda.left = 18_000  # enough for the next image, not for its narrowed form
    with pytest.raises(UserError, match="no memory left"):
        list(detector(random_images(0, 1, [(40, 50)])))
    assert_same(list(detector([second])), expected)


def test_an_engine_that_the_kernels_are_not_made_for_has_its_steps_on_the_cpu(pretend, kernels, tmp_path):
    cuda = FakeCuda()
    engine = finder(cuda)
    engine.tensors["classes"] = ("out", (-1, CANDIDATES), np.float32)
    pretend(cuda, engine)
    write_detector(tmp_path)
    images = random_images(6, 3)
    assert_same(list(Detector(tmp_path)(images)), on_the_cpu(tmp_path, images))
    assert "nms" not in cuda.events


def test_a_gpu_that_is_lost_is_one_line_in_each_way_of_running(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    image = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
    for runs in (0, 1, 2):
        for _ in range(runs):
            infer(image)
        cuda.lost = True
        with pytest.raises(UserError, match=r"Pretended failed while it ran .*(launch failure|error 719).*dmesg"):
            infer(image)
        cuda.lost = False


def test_what_tensorrt_cannot_run_is_one_line_with_its_reason(pretend):
    cuda = FakeCuda()
    engine = adder(cuda)
    engine.runs = False
    with pytest.raises(UserError, match=r"could not run .* on Pretended \(.*Error Code 1.*\): .*build the engine"):
        pretend(cuda, engine)()({"image": np.zeros((1, 2, 2, 3), np.uint8)})


def test_the_kernels_binaries_lie_in_the_engines_folder(pretend, kernels, host_kernels, tmp_path):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    Detector(tmp_path)
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / ".compiled").iterdir()) == ["letterbox", "nms"]


def test_the_stand_in_is_not_left_behind():
    assert not any(module in sys.modules for module in MODULES)
