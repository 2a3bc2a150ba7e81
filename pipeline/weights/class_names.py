"""Reads the names of classes: a name a line, an empty line for a class id without a class.

`labels/coco.txt` has COCO's 80 names at their category ids 1 to 90, with ten gaps. `labels/imagenet.txt` has the 1000
classes of ILSVRC 2012 by their WordNet lemmas, in the order of their synsets; where two classes share a first lemma
(crane, maillot, cardigan), one of them has a longer name. `labels/imagenet21k.txt` has the 21,843 classes of the
published ImageNet-21k weights, in the order of timm 1.0.31's imagenet21k_goog_synsets.txt: the first lemma of a synset;
all its lemmas where others share the first, and the synset's id where they share all of them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from effedge.deploy.common.files import read_text

FOLDER = Path(__file__).parent / "labels"


def read_labels(path: Path) -> list[str | None]:
    """Reads the labels of a file, None for an empty line. Raises UserError if the file is missing or no UTF-8."""
    lines = read_text(path, "a labels file with a class name a line").splitlines()
    return [line.strip() or None for line in lines]


def stated_names(metadata: Mapping[str, str]) -> list[str | None] | None:
    """Returns the names in an ONNX file's metadata, which Ultralytics' exporter writes as {0: 'person', ...}, and
    YOLOv5's before as ['person', ...]; None if there are none."""
    try:
        stated = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if isinstance(stated, dict) and sorted(stated) == list(range(len(stated))) and stated:
        return [str(stated[number]) for number in range(len(stated))]
    return [str(name) for name in stated] if isinstance(stated, list) and stated else None


def coco_labels() -> list[str | None]:
    """Returns 90 entries: COCO's category id minus 1 -> name, or None for the ids that COCO does not use."""
    return read_labels(FOLDER / "coco.txt")


def imagenet_labels() -> list[str | None]:
    """Returns the 1000 ImageNet names by class id."""
    return read_labels(FOLDER / "imagenet.txt")


def imagenet21k_labels() -> list[str | None]:
    """Returns the 21,843 ImageNet-21k names by class id."""
    return read_labels(FOLDER / "imagenet21k.txt")


def numbered_labels(classes: int) -> list[str | None]:
    """Returns the class ids as names, for weights that come without names.

    >>> numbered_labels(3)
    ['0', '1', '2']
    """
    return [str(index) for index in range(classes)]
