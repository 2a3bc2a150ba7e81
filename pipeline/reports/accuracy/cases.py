"""What `make accuracy` measures, as rows of data: a model, its weights, the pictures of its ranges and of its figures.

No picture that ranges come from is among those that the figures come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from effedge.calibration.ranges.samples import spread
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import whole_file
from effedge.pipeline.weights.locate import locate_weights


class Case(NamedTuple):
    """One model on one kind of pictures.

    weights: a word that effedge.pipeline.chain takes; None for the checkpoint that the user gives.
    folder: under the folder that EFFEDGE_DATA names; None for pictures that come with effedge.
    calibration: in that folder; None for what comes with the weights, or for a part of the evaluation's (`apart`).
    evaluation: name -> data in that folder.
    apart: so many pictures of the evaluation's table are for calibration, and not for the figures.
    """

    name: str
    model: str
    weights: str | None
    folder: str | None
    calibration: str | None
    evaluation: dict[str, str]
    apart: int = 0


CASES = {
    case.name: case
    for case in (
        Case("d0-digits", "d0", "digits", None, None, {"digits": "digits"}),
        Case("b0-digits", "b0", "digits", None, None, {"digits": "digits"}),
        Case("lite0-imagenet", "lite0", "imagenet", "imagenet500", None, {"ImageNet": "labels.tsv"}, apart=200),
        Case(
            "det-lite0-bccd",
            "det-lite0",
            None,
            "bccd",
            "train.json",
            {"BCCD val": "val.json", "BCCD test": "test.json"},
        ),  # fmt: skip
    )
}


class Found(NamedTuple):
    """A case's weights and data on this machine, as effedge.pipeline.chain and effedge.pipeline.evaluation.evaluate take them."""

    weights: str
    calibration: Path | None
    evaluation: dict[str, str]


def find(case: Case, data: Path | None, bccd_weights: Path | None, lists: Path) -> Found:
    """A case's weights and data.

    Args:
        data: the folder that EFFEDGE_DATA names, if it does.
        bccd_weights: a checkpoint of det-lite0 that was trained on bccd/train.json, if there is one.
        lists: the folder that lists of pictures are written to.

    Raises:
        UserError: something is missing; says what.
    """
    weights = case.weights or (str(bccd_weights) if bccd_weights else None)
    if weights is None:
        raise UserError(f"no checkpoint: give a {case.model} trained on bccd/train.json with BCCD (--bccd-weights)")
    if case.folder is None:
        return Found(weights, None, case.evaluation)
    if data is None or not (data / case.folder).is_dir():
        given = f"'{data}' has none" if data else "the variable is not set"
        raise UserError(f"its pictures are {case.folder}/ in the folder that EFFEDGE_DATA names, and {given}")
    locate_weights(case.model, weights)
    folder = data / case.folder
    evaluation = {name: folder / file for name, file in case.evaluation.items()}
    calibration = folder / case.calibration if case.calibration else None
    if case.apart:
        [(name, table)] = evaluation.items()
        calibration, evaluation[name] = split_table(table, lists, case.apart)
    return Found(weights, calibration, {name: str(path) for name, path in evaluation.items()})


def split_table(table: Path, out: Path, count: int) -> tuple[Path, Path]:
    """Part a table of file<TAB>class into `count` pictures to calibrate on, evenly spread over it, and the rest.

    Returns:
        out/<name>-calibration.json, a COCO json without annotations, which is how calibration takes a list of pictures;
        out/<name>-evaluation.tsv. Both hold whole paths; <name> is that of the table's folder.
    """
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    folder = table.parent.resolve()
    chosen = set(spread(range(len(rows)), count))
    images = [{"id": index, "file_name": str(folder / rows[index][0])} for index in sorted(chosen)]
    rest = [f"{folder / file}\t{name}\n" for index, (file, name) in enumerate(rows) if index not in chosen]
    calibration, evaluation = (out / f"{folder.name}-{part}" for part in ("calibration.json", "evaluation.tsv"))
    with whole_file(calibration) as temporary:
        temporary.write_text(json.dumps({"images": images, "annotations": [], "categories": []}, indent=1) + "\n")
    with whole_file(evaluation) as temporary:
        temporary.write_text("".join(rest), encoding="utf-8")
    return calibration, evaluation
