"""Detects objects in every image of a folder and prints what is where.

make engine MODEL=d0 PRECISION=int8
python examples/detect_in_folder.py build/d0-digits/int8-cpu IMAGES
"""

import sys
from pathlib import Path

from effedge import Detector, UserError


def main(engine: str, folder: str) -> None:
    images = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for detections in Detector(engine).stream(images):
        print(f"{detections.source}: {detections}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
