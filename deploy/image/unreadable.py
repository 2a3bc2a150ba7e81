"""Finds the images that cannot be read before the work that needs all of them, and lists them at the work's end."""

from pathlib import Path
from typing import Dict, Iterable, List, Sequence

from effedge.deploy.common.messages import log, track
from effedge.deploy.common.parallel import ordered_map
from effedge.deploy.image.files import read_images
from effedge.deploy.timing.machine import cores

MOST_LISTED = 10


def find_unreadable(paths: Iterable[Path], desc: str = "reading images") -> Dict[Path, str]:
    """Decodes images, and returns the error of each that `effedge.deploy.image.files.open_image` refuses.

    Whole pixels are decoded, as a file that was cut short has a sound head.

    Args:
        desc: of the progress bar.
    """

    def error_of(path: Path) -> str:
        unread: List[str] = []
        for _ in read_images([path], unread):
            pass
        return "".join(unread)

    different = list(dict.fromkeys(paths))
    errors = track(ordered_map(error_of, different, cores()), total=len(different), desc=desc, unit="image")
    return {path: error for path, error in zip(different, errors) if error}


def log_unreadable(errors: Sequence[str], count: int, consequence: str, kind: str = "error") -> None:
    """Warns of images that could not be read: a line for each of the first MOST_LISTED, and one with their number.

    Args:
        errors: of the images; without any, nothing is said.
        count: the number of images, readable or not.
        consequence: what became of the others: "the others are evaluated".
        kind: "error" where the exit status says so too, "warning" where the command succeeds.
    """
    for line in errors[:MOST_LISTED]:
        log.warning(f"{kind}: {line}")
    if len(errors) > MOST_LISTED:
        log.warning(f"{kind}: and {len(errors) - MOST_LISTED} more like these")
    if errors:
        log.warning(f"{kind}: {len(errors)} of {count} images could not be read; {consequence}")
