"""Engines of the TensorRT that fake_tensorrt.py pretends, what they are to compute, and the modules to replace."""

import hashlib
import json

import numpy as np

from effedge import Detector
from tests.deploy.fake_pycuda import pycuda_modules
from tests.deploy.fake_tensorrt import FakeEngine

SIZE, CANDIDATES = (48, 64), 120
# What is to be imported anew for other stand-ins.
MODULES = (
    "effedge.deploy.runtime.tensorrt.backend",
    "effedge.deploy.runtime.tensorrt.detector_steps",
    "effedge.deploy.runtime.tensorrt.execution_slot",
    "effedge.deploy.runtime.tensorrt.gpu",
)


def stand_ins(cuda, trt, driver):
    """Returns what sys.modules is to say of TensorRT and pycuda, which libcuda as the driver lacks."""
    pycuda = pycuda_modules(cuda) if driver == "pycuda" else {"pycuda": None, "pycuda.driver": None}
    return {trt.__name__: trt, **pycuda}


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


LETTERBOX = {"resize": "letterbox", "fill": [9, 8, 250]}


def write_detector(folder, name="tensorrt", batch=(1, 2, 4), resize=LETTERBOX):
    image = {"size": list(SIZE), "batch": list(batch), "interpolation": "bilinear", **resize}
    spec = {"model": "tiny", "task": "detection", "labels": ["a", "b"], "input": image}
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
        assert row.labels == expected_row.labels
    assert sum(map(len, expected)) > 5 * len(expected)
