"""Makes engine folders that answer the same for every image, and labelled images for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64


def save_engine(folder: Path, outputs, spec, asked, **manifest) -> Path:
    """Saves constants, by name, as an OpenVINO engine of images of SIDE x SIDE."""
    import openvino as ov
    import openvino.opset13 as ops

    folder.mkdir(parents=True)
    image = ops.parameter([1, SIDE, SIDE, 3], np.uint8, name="image")
    image.output(0).get_tensor().set_names({"image"})
    nothing = ops.multiply(ops.reduce_max(ops.convert(image, np.float32), ops.constant(np.int64([0, 1, 2, 3])), False),
                           ops.constant(np.float32(0)))  # fmt: skip
    results = []
    for name, value in outputs.items():
        result = ops.add(ops.constant(value), ops.convert(nothing, value.dtype))
        result.output(0).get_tensor().set_names({name})
        results.append(ops.result(result))
    ov.save_model(ov.Model(results, [image], "small"), str(folder / "engine.xml"), compress_to_fp16=False)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    layers = [{"name": "a", "type": "Convolution", "precision": "f32" if asked == "fp32" else asked}]
    precision = {"asked": asked, "built": {layers[0]["precision"]: 1}, "convolutions": {}, "not_built": [],
                 "kept": {}, "source": "executed", "layers": layers}  # fmt: skip
    content = {
        "format": 1, "spec": spec, "engine": "engine.xml", "files": files, "target": "cpu", "precision": precision,
        "backend": {"name": "openvino", "version": ov.__version__}, "versions": {"openvino": ov.__version__},
        **manifest,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def detector(folder: Path, boxes, scores, classes, *, labels=("cat", "dog"), asked="fp32", **manifest) -> Path:
    """A detector that finds the boxes, xyxy in pixels, in each image."""
    outputs = {
        "boxes": np.float32(boxes).reshape(1, -1, 4),
        "scores": np.float32([scores]),
        "classes": np.int32([classes]),
    }
    frame = {"size": [SIDE, SIDE], "batch": [1, 1, 1], "interpolation": "bilinear"}
    spec = {"model": "tiny", "task": "detection", "weights": "digits", "labels": list(labels),
            "input": {**frame, "resize": "letterbox", "fill": [0, 0, 0]}}  # fmt: skip
    return save_engine(folder, outputs, spec, asked, **manifest)


def classifier(folder: Path, logits, *, labels=("cat", "dog"), asked="fp32", **manifest) -> Path:
    """A classifier that has these logits for each image."""
    frame = {"size": [SIDE, SIDE], "batch": [1, 1, 1], "interpolation": "bilinear"}
    spec = {"model": "tiny", "task": "classification", "weights": "random", "labels": list(labels),
            "input": {**frame, "resize": "center-crop", "crop": 1.0}}  # fmt: skip
    return save_engine(folder, {"logits": np.float32([logits])}, spec, asked, **manifest)


def coco(folder: Path, objects, *, names=("cat", "dog"), images=2) -> Path:
    """A COCO json of grey images of SIDE x SIDE, with objects (class id, xyxy) in each."""
    folder.mkdir(parents=True)
    annotations = []
    for image_id in range(images):
        Image.new("RGB", (SIDE, SIDE), (90 + image_id, 90, 90)).save(folder / f"{image_id}.png")
        for class_id, (x0, y0, x1, y1) in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": class_id + 1,
                                "bbox": [x0, y0, x1 - x0, y1 - y0]})  # fmt: skip
    content = {
        "images": [{"id": each, "file_name": f"{each}.png"} for each in range(images)],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(names)],
        "annotations": annotations,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def class_folders(folder: Path, names=("cat", "dog"), images=2) -> Path:
    """A folder of images for each class."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(images):
            Image.new("RGB", (80, SIDE), (90, 90 + index, 90)).save(folder / name / f"{index}.png")
    return folder
