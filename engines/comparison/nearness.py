"""Measures how near the outputs of two runs are, output by output, in decibels.

The measure is the ratio of the reference's energy to that of the difference (SQNR). A detector's candidates of almost
equal score change places with the slightest rounding, so that their boxes and classes are compared as a set. Other
models may select rows too, by a TopK or a NonMaxSuppression; then each row is compared with the nearest one.

A type's largest number counts as infinity. A MaxPool's window of padding alone has the maximum of nothing: -infinity
by ONNX's reference, and the lowest number in OpenVINO and where ONNX Runtime fuses a Pad into the pool. Whatever
follows takes the one as the other.
"""

from typing import Collection, Dict, Mapping

import numpy as np

from effedge.deploy.common.contracts import Spec
from effedge.deploy.image.iou import iou_matrix

Outputs = Mapping[str, np.ndarray]

EQUAL, DIFFERENT = 200.0, -100.0  # dB, in place of an infinite ratio
SMALLEST = 1e-3  # the root mean square of an output that is as good as zero
INTEGERS_THAT_MAY_DIFFER = 0.01  # an argmax changes where two values are equal but for rounding
CANDIDATES = ("boxes", "scores", "classes")
CANDIDATES_THAT_MAY_DIFFER = 0.1
LEAST_IOU = 0.5
TEXTS = "OSU"  # the kinds of arrays of texts: ONNX Runtime gives objects, OpenVINO texts of one length
LEAST_SIDE = 1.0  # pixel
CHUNK = 1 << 22  # distances that are computed at a time
MOST_DISTANCES = 1 << 24  # between rows that are compared with the nearest one


def nearness(reference: Outputs, actual: Outputs, spec: Spec, selected: Collection[str] = (),
             least_iou: float = LEAST_IOU) -> Dict[str, float]:  # fmt: skip
    """Returns the decibels of each output of `reference`; DIFFERENT for one that `actual` lacks.

    Args:
        spec: the model's; with a detector's, boxes and classes are EQUAL or DIFFERENT.
        selected: the outputs that may hold rows which the model selects (onnx_header.Header.selected_outputs).
        least_iou: with which two boxes of a detector are the same.
    """
    result = {name: decibels(expected, actual.get(name)) for name, expected in reference.items()}
    for name in () if spec else selected:
        if name in result:
            result[name] = max(result[name], rows_decibels(reference[name], actual.get(name)))
    if spec.get("task") == "detection" and set(CANDIDATES) <= set(reference) and set(CANDIDATES) <= set(actual):
        share = candidates_missing(reference, actual, least_iou)
        result["boxes"] = result["classes"] = EQUAL if share <= CANDIDATES_THAT_MAY_DIFFER else DIFFERENT
    return {name: round(value, 1) for name, value in result.items()}


def decibels(expected: np.ndarray, actual: object) -> float:
    """Measures one output; DIFFERENT where the runs differ in more than rounding: in shape or kind, or in where they
    are NaN or infinite."""
    if not isinstance(actual, np.ndarray) or expected.shape != actual.shape:
        return DIFFERENT
    if expected.dtype.kind in TEXTS and actual.dtype.kind in TEXTS:
        return EQUAL if expected.astype(str).tolist() == actual.astype(str).tolist() else DIFFERENT
    if expected.dtype.kind != actual.dtype.kind:
        return DIFFERENT
    if expected.dtype.kind not in "fiub":
        return EQUAL if np.array_equal(expected, actual) else DIFFERENT
    if expected.dtype.kind != "f" and (not expected.size or np.mean(expected != actual) <= INTEGERS_THAT_MAY_DIFFER):
        return EQUAL
    wanted, got = with_infinities(expected), with_infinities(actual)
    finite = np.isfinite(wanted)
    same_elsewhere = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
    if not same_elsewhere[~finite].all() or not np.isfinite(got[finite]).all():
        return DIFFERENT
    noise = np.square(wanted[finite] - got[finite]).sum()
    signal = max(np.square(wanted[finite]).sum(), SMALLEST**2 * finite.sum())
    return ratio_in_decibels(signal, noise)


def ratio_in_decibels(signal: float, noise: float) -> float:
    """Returns the ratio of two energies, from DIFFERENT to EQUAL."""
    return EQUAL if noise == 0 else float(np.clip(10 * np.log10(signal / noise), DIFFERENT, EQUAL))


def rows_decibels(expected: np.ndarray, actual: object) -> float:
    """Measures an output of rows [K], [K,C] or [1,K,...] in any order: each row of either run against the nearest one
    of the other. DIFFERENT for any other output, and where only one run has rows.

    Numbers [K] that are as many have an order, which a selection makes by them: for these it is DIFFERENT too.
    """
    if not isinstance(actual, np.ndarray) or expected.dtype != actual.dtype or expected.dtype.kind not in "fiu":
        return DIFFERENT
    wanted, got = (array.astype(np.float64) for array in (expected, actual))
    wanted, got = (array[0] if array.ndim > 1 and len(array) == 1 else array for array in (wanted, got))
    if wanted.ndim not in (1, 2) or wanted.ndim != got.ndim or wanted.shape[1:] != got.shape[1:]:
        return DIFFERENT
    if wanted.shape == got.shape and wanted.ndim == 1 and expected.dtype.kind == "f":
        return DIFFERENT
    finite = np.isfinite(wanted).all() and np.isfinite(got).all()
    if not (wanted.size and got.size and finite) or len(wanted) * len(got) > MOST_DISTANCES:
        return DIFFERENT
    wanted, got = (array.reshape(len(array), -1) for array in (wanted, got))
    noise = nearest_distances(wanted, got).sum() + nearest_distances(got, wanted).sum()
    signal = max(np.square(wanted).sum() + np.square(got).sum(), SMALLEST**2 * (wanted.size + got.size))
    return ratio_in_decibels(signal, noise)


def nearest_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the squared distance of each row [R,C] from the nearest of the other rows [S,C], of which there is one at
    least: exactly 0 for a row that is among them."""
    squares = np.square(others).sum(axis=1)
    at_once = max(1, CHUNK // len(squares))
    parts = [rows[first : first + at_once] for first in range(0, len(rows), at_once)]
    nearest = [others[(squares - 2 * part @ others.T).argmin(axis=1)] for part in parts]
    return np.concatenate([np.square(part - near).sum(axis=1) for part, near in zip(parts, nearest)])


def with_infinities(values: np.ndarray) -> np.ndarray:
    """Returns numbers as float64, with infinities for the largest and the lowest number of their type."""
    wide = values.astype(np.float64)
    if values.dtype.kind == "f":
        wide[np.abs(wide) >= float(np.finfo(values.dtype).max)] *= np.inf
    return wide


def candidates_missing(reference: Outputs, actual: Outputs, least_iou: float) -> float:
    """Returns the share of the reference's candidates without a counterpart, a candidate of their class that overlaps
    them, in the other run. Only candidates count whose score is above the last one's by more than the scores differ.

    Where a network's distances have no bound, as YOLO26's, the corners of a box may be swapped."""
    count = missing = 0
    arrays = [outputs[name] for outputs in (reference, actual) for name in CANDIDATES]
    if len({array.shape[:2] for array in arrays}) > 1:
        return 1.0
    for boxes, scores, classes, other_boxes, other_scores, other_classes in zip(*arrays):
        rounding = 2 * np.abs(scores - other_scores).max()
        boxes, other_boxes = with_area(boxes), with_area(other_boxes)
        for index in np.flatnonzero(scores > scores[-1] + rounding):
            overlaps = iou_matrix(boxes[index : index + 1], other_boxes)[0]
            found = (overlaps >= least_iou) & (other_classes == classes[index])
            count, missing = count + 1, missing + (not found.any())
    return missing / count if count else 0.0


def with_area(boxes: np.ndarray) -> np.ndarray:
    """Orders the corners of boxes [n,4], and gives each a pixel more, so that every box overlaps itself."""
    corners = np.sort(boxes.astype(np.float64).reshape(-1, 2, 2), axis=1)
    corners[:, 1] += LEAST_SIDE
    return corners.reshape(-1, 4)
