"""Keeps the `digits` images as files in the cache, drawn once, for evaluation and calibration, which read folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from effedge.deploy.common.contracts import Spec
from effedge.deploy.common.files import atomic_folder, sha256
from effedge.deploy.common.messages import track
from effedge.pipeline.datasets import digits
from effedge.pipeline.weights.download import cache_folder

COUNTS = {"detection": 500, "classification": 1000}


def digits_folder(task: str, split: str, *, size: int, count: int | None = None) -> Path:
    """Returns the folder of a split: COCO's `instances.json` and `images/` for detection, a folder per class otherwise.

    The images are drawn if the folder does not exist. Its name holds the hash of the drawing code, so that a changed
    code draws them anew.

    Args:
        split: `train`, `calibration` or `val`.
        size: side in pixels of the classification crops; detection has images of several shapes.
        count: number of images; by default 500 for detection, 1000 crops.
    """
    count = count or COUNTS[task]
    progress = partial(track, desc=f"drawing digits ({split})", unit="image")
    shape = "" if task == "detection" else f"-{size}"
    code = sha256(digits.__file__)[:8]
    folder = cache_folder() / f"digits-{split}-{task}{shape}-{count}-{code}"
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            if task == "detection":
                digits.write_detection(temporary, split, count, progress)
            else:
                digits.write_classification(temporary, split, count, size, progress)
    return folder


def digits_data(spec: Spec, count: int | None = None) -> Path:
    """Returns the labelled images for the task of a spec, as `read_data` takes them: unseen digits, as `digits_folder`.

    Crops are as large as the longer side of the input.
    """
    folder = digits_folder(spec["task"], "val", size=max(spec["input"]["size"]), count=count)
    return folder / "instances.json" if spec["task"] == "detection" else folder
