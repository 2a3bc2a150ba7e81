"""Compares an engine's detections, or classes, in the bundled image with the expected ones, and every output.

Detections are records as `effedge predict --json` writes them. The expected record is the same ONNX's on another
runtime, so the two agree only within a tolerance: of the overlap of boxes (IoU), and of scores. Detections above a
score say nothing of the others: so the engine's outputs themselves are compared too (engines/comparison), with those of
the bundle.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np

from effedge.deploy.common.cli import EXIT_USER_ERROR, UserError, run
from effedge.deploy.image.files import open_image
from effedge.deploy.image.iou import iou_matrix
from effedge.deploy.image.preprocess import preparation
from effedge.deploy.runtime.backends import load_backend
from effedge.deploy.runtime.manifest import read_manifest
from effedge.engines.comparison.compare import LEAST
from effedge.engines.comparison.inputs import image_batch
from effedge.engines.comparison.nearness import nearness
from effedge.engines.installation.launch import command

ERROR = "error: "  # the beginning of the line that effedge.deploy.common.cli.run prints
SURE = 0.3  # the lowest score that needs a counterpart; a counterpart may lie below it within the tolerance
# By precision: the least IoU, and the largest difference of scores.
TOLERANCES = {"fp32": (0.98, 0.02), "fp16": (0.95, 0.05), "int8": (0.9, 0.1), "fp8": (0.9, 0.1)}


class Outcome(NamedTuple):
    """The result of a comparison.

    Attributes:
        expected: the number of detections, or classes, that had to be found.
        iou, score: the least IoU and the largest difference of scores of a pair; 1 and 0 without pairs.
        problems: a sentence for each disagreement.
    """

    expected: int
    iou: float
    score: float
    problems: List[str]


def compare(expected: Dict[str, Any], predicted: Dict[str, Any], precision: str) -> Outcome:
    """Compares two records of the same image. Each sure result in a record needs a counterpart in the other."""
    if "classes" in expected:
        return compare_classes(expected["classes"], predicted["classes"], TOLERANCES[precision][1])
    return compare_detections(expected["detections"], predicted["detections"], *TOLERANCES[precision])


def compare_outputs(engine: Path, image: Path, expected: Path, precision: str) -> float:
    """Compares every output of the engine in the folder `engine` for an image with those of `expected`, an .npz of the
    reference's; returns the decibels of the furthest.

    Raises UserError for an output that is further away than rounding explains.
    """
    values = measured_apart(engine, image, expected)
    worst = min(values, key=lambda name: values[name])
    if values[worst] < LEAST[precision]:
        raise UserError(
            f"output '{worst}' of the engine is {values[worst]:.0f} dB from the reference's in {image} (expected "
            f"{LEAST[precision]:.0f} or more): do not use it, and build another precision"
        )
    return values[worst]


def measured_apart(engine: Path, image: Path, expected: Path) -> Dict[str, float]:
    """Runs `measure_outputs` in a process of its own, so that what the backend takes is free again while the engine is
    timed.

    It is a plain process: multiprocessing's pools need /dev/shm, which a container on a board may not have, and its
    processes do not find the package of a bundle (installation/launch.py).

    Raises UserError as `measure_outputs`, or if the process fails or is killed.
    """
    words = command("effedge.engines.selftest", *map(str, (engine, image, expected)))
    done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace")
    lines = done.stderr.splitlines()
    if done.returncode == EXIT_USER_ERROR and lines and lines[-1].startswith(ERROR):
        raise UserError(lines[-1][len(ERROR) :])
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        raise UserError(
            f"the comparison of the engine's outputs ended with exit status {done.returncode} (-9: killed, as where "
            "the memory is too small): what it printed above says why"
        )
    values: Dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def main() -> None:
    """Prints the result of `measure_outputs` as JSON; see `measured_apart`."""
    engine, image, expected = map(Path, sys.argv[1:])
    print(json.dumps(measure_outputs(engine, image, expected)))


def measure_outputs(engine: Path, image: Path, expected: Path) -> Dict[str, float]:
    """Returns the decibels of each output; see `compare_outputs`."""
    manifest = read_manifest(engine)
    feeds = image_batch(preparation(manifest["spec"]["input"])(open_image(image)).pixels, manifest["spec"])
    with np.load(str(expected)) as arrays:
        reference = {name: arrays[name] for name in arrays.files}
    return nearness(reference, load_backend(engine, manifest)(feeds), manifest["spec"])


def compare_detections(
    expected: Sequence[Dict[str, Any]], predicted: Sequence[Dict[str, Any]], least_iou: float, max_difference: float
) -> Outcome:
    """Pairs each sure detection with the best-overlapping one of its class in the other list."""
    worst_iou, worst_difference = 1.0, 0.0
    problems = []
    for rows, others, verb in ((expected, predicted, "not found"), (predicted, expected, "not expected")):
        for row in rows:
            if row["score"] < SURE:
                continue
            candidates = [other for other in others if other["class_id"] == row["class_id"]]
            boxes = np.array([candidate["box"] for candidate in candidates], np.float64).reshape(-1, 4)
            overlaps = iou_matrix(np.array([row["box"]], np.float64), boxes)[0].tolist()
            if not overlaps or max(overlaps) < least_iou:
                nearest = f"; nearest at IoU {max(overlaps):.3f}" if overlaps else ""
                problems.append(f"'{row['label']}' ({row['score']:.2f}) at {row['box']} was {verb}{nearest}")
                continue
            best = int(np.argmax(overlaps))
            counterpart = candidates[best]
            difference = abs(counterpart["score"] - row["score"])
            worst_iou, worst_difference = min(worst_iou, overlaps[best]), max(worst_difference, difference)
            if difference > max_difference:
                problems.append(f"'{row['label']}' at {row['box']}: scores {row['score']} and {counterpart['score']}")
    return Outcome(sum(row["score"] >= SURE for row in expected), worst_iou, worst_difference, problems)


def compare_classes(
    expected: Sequence[Dict[str, Any]], predicted: Sequence[Dict[str, Any]], max_difference: float
) -> Outcome:
    """Checks that the best class of each record is among the five best of the other, with a similar probability."""
    worst_difference = 0.0
    problems = []
    for rows, others, verb in ((expected, predicted, "not found"), (predicted, expected, "not expected")):
        best = rows[0]
        scores = [other["score"] for other in others if other["class_id"] == best["class_id"]]
        if not scores:
            problems.append(f"'{best['label']}' ({best['score']:.2f}) was {verb}")
            continue
        difference = abs(scores[0] - best["score"])
        worst_difference = max(worst_difference, difference)
        if difference > max_difference:
            problems.append(f"'{best['label']}': probabilities {best['score']} and {scores[0]}")
    return Outcome(1, 1.0, worst_difference, problems)


if __name__ == "__main__":
    run(main)
