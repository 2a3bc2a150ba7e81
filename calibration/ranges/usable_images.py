"""Leaves the images that cannot be read out of a calibration, which a few images more or less do not change.

Where most cannot be read, the data are not what the user thinks they are: that is an error. The record of a stage
counts the content of all images that it was given, from which follows which of them can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import read_images
from effedge.deploy.image.unreadable import find_unreadable, log_unreadable

MOST_UNUSABLE = 0.5  # of the images; a chosen limit


def usable_images(paths: Sequence[Path], data: Path) -> list[Path]:
    """Returns the images that can be read, and warns of the others.

    Raises:
        UserError: more than MOST_UNUSABLE of the images of `data`, or all, cannot be read.
    """
    errors = find_unreadable(paths)
    usable = [path for path in paths if path not in errors]
    if len(paths) - len(usable) > MOST_UNUSABLE * len(paths):
        raise UserError(
            f"{len(paths) - len(usable)} of the {len(paths)} calibration images of '{data}' cannot be read, the first: "
            f"{next(iter(errors.values()))}"
        )
    log_unreadable(list(errors.values()), len(paths), f"calibrated on the other {len(usable)}", "warning")
    return usable


def first_usable(paths: Sequence[Path]) -> Path:
    """Returns the first image that can be read; where none can, the first."""
    return next((path for path, _ in read_images(paths, [])), paths[0])
