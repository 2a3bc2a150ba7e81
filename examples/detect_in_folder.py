"""Detects objects in every image of a folder and prints what is where.

make engine MODEL=d0 PRECISION=int8
python examples/detect_in_folder.py build/d0-digits/int8-cpu IMAGES
"""

import sys
from pathlib import Path

from effedge import Detector, UserError


def main(engine: str, folder: str) -> None:
    images = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    detector = Detector(engine, threshold=0.4)
    for path, detections in zip(images, detector(images)):
        print(path.name)
        for (x0, y0, x1, y1), score, name in zip(detections.boxes, detections.scores, detections.names):
            print(f"  {name} {score:.2f} at {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
