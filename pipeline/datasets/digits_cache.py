"""The `digits` pictures as files, drawn once into the cache, for whatever reads folders: evaluation and calibration."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tqdm import tqdm

from effedge.deploy.common.files import sha256, whole_folder
from effedge.engines.stage import progress_disabled
from effedge.pipeline.datasets import digits
from effedge.pipeline.weights.download import cache_folder

COUNTS = {"detection": 500, "classification": 1000}


def digits_folder(task: str, split: str, *, size: int, count: int | None = None, quiet: bool = False) -> Path:
    """The folder of a split: COCO's `instances.json` and `images/` for detection, a folder per class otherwise.

    Args:
        split: `train`, `calibration` or `val`.
        size: side in pixels of the classification crops; detection has pictures of several shapes.
        count: pictures; 500 for detection, 1000 crops by default.

    It is drawn if it is not there. The name holds the hash of the code that draws, so that a change draws anew.
    """
    count = count or COUNTS[task]
    progress = partial(tqdm, desc=f"drawing digits ({split})", unit="picture", disable=progress_disabled(quiet))
    shape = "" if task == "detection" else f"-{size}"
    code = sha256(digits.__file__)[:8]
    folder = cache_folder() / f"digits-{split}-{task}{shape}-{count}-{code}"
    if not folder.is_dir():
        with whole_folder(folder) as temporary:
            if task == "detection":
                digits.write_detection(temporary, split, count, progress)
            else:
                digits.write_classification(temporary, split, count, size, progress)
    return folder
