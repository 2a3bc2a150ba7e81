"""Detectors with letterbox and NMS by the CUDA kernels, which compute on the host here."""

import threading

import numpy as np
import pytest

from effedge import Detector
from effedge.deploy.common.cli import UserError
from tests.deploy.fake_cuda import LOST, FakeCuda
from tests.deploy.runtime.tensorrt.engines import (
    CANDIDATES,
    SIZE,
    assert_same,
    finder,
    on_the_cpu,
    random_images,
    synthetic_candidates,
    write_detector,
)


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


@pytest.mark.parametrize("batch", [(1, 1, 1), (3, 3, 3)])
def test_stretched_images_have_the_detections_of_pillow_and_numpy(pretend, kernels, host_kernels, tmp_path, batch):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda, batch[0]))
    write_detector(tmp_path, batch=batch, resize={"resize": "stretch"})
    images = random_images(0, 31) + random_images(1, 12, [(40, 70)])
    images += random_images(2, 3, [(9000, 1), (2, 5000), (1, 1)])  # of two the runtime leaves out rows or columns
    detections = list(Detector(tmp_path, threshold=0.1)(images))
    assert "nms" in cuda.events and "graph" in cuda.events
    assert_same(detections, on_the_cpu(tmp_path, images, threshold=0.1))
    assert max(detections[-3].boxes[:, 3]) > 4500


def test_a_stretch_with_a_crop_is_resized_on_the_cpu(pretend, kernels, tmp_path):
    cuda = FakeCuda()
    pretend(cuda, finder(cuda))
    write_detector(tmp_path, resize={"resize": "stretch", "crop": 0.5})
    images = random_images(6, 3)
    assert_same(list(Detector(tmp_path)(images)), on_the_cpu(tmp_path, images))
    assert "nms" not in cuda.events


@pytest.mark.parametrize(
    "options", [{"class_agnostic": True}, {"classes": ["b"]}, {"classes": [0, "b"], "class_agnostic": True}], ids=str
)
def test_some_classes_and_nms_across_classes_are_those_of_pillow_and_numpy(
    pretend, kernels, host_kernels, tmp_path, options
):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    images = random_images(7, 30)
    detections = Detector(tmp_path, threshold=0.1, **options)(images)
    assert "nms" in cuda.events
    assert_same(detections, on_the_cpu(tmp_path, images, threshold=0.1, **options))
    everything = Detector(tmp_path, threshold=0.1)(images)
    assert sum(map(len, detections)) < sum(map(len, everything))


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


def test_where_the_driver_refuses_the_kernels_the_steps_run_on_the_cpu(pretend, kernels, tmp_path, capsys):
    cuda = FakeCuda()
    cuda.failures["cuModuleLoadData"] = LOST
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    images = random_images(5, 9)
    detections = list(Detector(tmp_path)(images))
    line = capsys.readouterr().err
    assert line.startswith("note: letterbox and NMS run on the CPU: the driver of Pretended does not load the compiled")
    assert line.count("\n") == 1 and "start the program again" not in line
    assert_same(detections, on_the_cpu(tmp_path, images))


def test_kept_kernels_that_the_driver_refuses_are_compiled_anew(pretend, kernels, host_kernels, tmp_path, monkeypatch):
    from effedge.deploy.runtime.compiled_cache import keep_compiled, read_compiled

    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    Detector(tmp_path)
    from effedge.deploy.runtime.tensorrt import gpu

    [kept] = (tmp_path / ".compiled").glob("nms-*")
    keep_compiled(kept, b"of an older driver")
    load = gpu.Gpu.kernel

    def strict(self, binary, name, types):
        if binary == b"of an older driver":
            raise gpu.KernelError("no")
        return load(self, binary, name, types)

    monkeypatch.setattr(gpu.Gpu, "kernel", strict)
    images = random_images(5, 9)
    assert_same(list(Detector(tmp_path)(images)), on_the_cpu(tmp_path, images))
    assert "nms" in cuda.events and read_compiled(kept) != b"of an older driver"


@pytest.mark.parametrize("name", ["boxes", "classes"])
def test_candidates_of_different_lengths_are_refused(pretend, kernels, host_kernels, tmp_path, name):
    cuda = FakeCuda(host_kernels)
    engine = finder(cuda)
    direction, shape, kind = engine.tensors[name]
    engine.tensors[name] = (direction, (shape[0], 5, *shape[2:]), kind)
    pretend(cuda, engine)
    write_detector(tmp_path)
    with pytest.raises(UserError, match=r"expected \[N,K,4\], \[N,K\], \[N,K\]"):
        list(Detector(tmp_path)(random_images(5, 2)))


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


def test_the_kernels_binaries_lie_in_the_engines_folder(pretend, kernels, host_kernels, tmp_path):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    Detector(tmp_path)
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / ".compiled").iterdir()) == ["letterbox", "nms"]
