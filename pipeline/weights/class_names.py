"""Names of classes, one a line; an empty line is a class id without a class.

`labels/coco.txt`: COCO's 80 names at their category ids 1 to 90, with ten gaps. `labels/imagenet.txt`: the 1000 classes
of ILSVRC 2012 by their WordNet lemmas, in the order of their synsets; where two share a first lemma (crane, maillot,
cardigan), one has a longer name.
"""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import UserError

FOLDER = Path(__file__).parent / "labels"


def read_labels(path: Path) -> list[str | None]:
    """Labels of a file by class id, None for an empty line. Raises UserError if it is missing or no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"labels file '{path}' does not exist: expected a text file with a class name a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"labels file '{path}' cannot be read ({error}): expected a class name a line") from error
    return [line.strip() or None for line in lines]


def coco_labels() -> list[str | None]:
    """90 entries: COCO's category id minus 1 -> name, or None for the ids that COCO does not use."""
    return read_labels(FOLDER / "coco.txt")


def imagenet_labels() -> list[str | None]:
    """The 1000 ImageNet names by class id."""
    return read_labels(FOLDER / "imagenet.txt")


def numbered_labels(classes: int) -> list[str | None]:
    """Class ids as names, for weights that came without.

    >>> numbered_labels(3)
    ['0', '1', '2']
    """
    return [str(index) for index in range(classes)]
