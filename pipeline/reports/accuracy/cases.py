"""Lists the cases of `make accuracy`: a model, its weights, its calibration images and its evaluation images.

No calibration image is among the evaluation images.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from effedge.calibration.ranges.samples import spread
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file, write_json
from effedge.deploy.common.paths import inside
from effedge.pipeline.request import Checkpoint, OnnxFile
from effedge.pipeline.weights.locate import locate_weights


class Case(NamedTuple):
    """A model on one kind of images.

    weights: a word that effedge.pipeline.chain takes.
    folder: under the folder that EFFEDGE_DATA names; None for images that come with effedge.
    calibration: data in `folder`; None for the images that come with the weights, or for a part of the evaluation
        images (`held_out`).
    evaluation: name -> data in `folder`.
    held_out: number of images of the evaluation's table that are used for calibration, and not for evaluation.
    """

    name: str
    model: str
    weights: str
    folder: str | None
    calibration: str | None
    evaluation: dict[str, str]
    held_out: int = 0


CASES = {
    case.name: case
    for case in (
        Case("d0-digits", "d0", "digits", None, None, {"digits": "digits"}),
        Case("b0-digits", "b0", "digits", None, None, {"digits": "digits"}),
        Case("lite0-imagenet", "lite0", "imagenet", "imagenet500", None, {"ImageNet": "labels.tsv"}, held_out=200),
        Case(
            "det-lite0-bccd",
            "det-lite0",
            "bccd",
            "bccd",
            "train.json",
            {"BCCD val": "val.json", "BCCD test": "test.json"},
        ),  # fmt: skip
    )
}


class LocatedCase(NamedTuple):
    """A model and its data on this machine, as the chain and the evaluation take them.

    calibration: None for the images that come with the weights.
    evaluation: name -> labelled images.
    """

    name: str
    source: Checkpoint | OnnxFile
    calibration: Path | None
    evaluation: dict[str, str]

    @property
    def model(self) -> str:
        """The model's name, or that of its file."""
        return self.source.model if isinstance(self.source, Checkpoint) else self.source.path.stem

    @property
    def weights(self) -> str:
        return self.source.weights if isinstance(self.source, Checkpoint) else str(self.source.path)


def locate(case: Case, data: Path | None, lists: Path) -> LocatedCase:
    """Locates a case's weights and data.

    Args:
        data: the folder that EFFEDGE_DATA names, None if it is not set.
        lists: the folder that lists of images are written to.

    Raises:
        UserError: weights or data are missing; names them.
    """
    source = Checkpoint(case.model, case.weights)
    if case.folder is None:
        return LocatedCase(case.name, source, None, case.evaluation)
    if data is None or not (data / case.folder).is_dir():
        reason = f"'{data}' has none" if data else "the variable is not set"
        raise UserError(f"its images are {case.folder}/ in the folder that EFFEDGE_DATA names, and {reason}")
    locate_weights(case.model, case.weights)
    folder = data / case.folder
    evaluation = {name: folder / file for name, file in case.evaluation.items()}
    calibration = folder / case.calibration if case.calibration else None
    if case.held_out:
        [(name, table)] = evaluation.items()
        calibration, evaluation[name] = split_table(table, lists, case.held_out)
    return LocatedCase(case.name, source, calibration, {name: str(path) for name, path in evaluation.items()})


def split_table(table: Path, out: Path, count: int) -> tuple[Path, Path]:
    """Splits a table of file<TAB>class into `count` images for calibration, evenly spread over it, and the rest.

    Returns:
        out/<name>-calibration.json, a COCO json without annotations, which is how calibration takes a list of images;
        out/<name>-evaluation.tsv. <name> is that of the table's folder, whose images are copied to out/<name>/: a list
        names files beside it only.

    Raises:
        UserError: the table names a file outside its folder, or the disk cannot be written.
    """
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    folder = table.parent.resolve()
    held_out = set(spread(range(len(rows)), count))
    for file, _ in rows:
        source, copy = inside(folder, file, str(table)), out / folder.name / file
        if not copy.exists():
            with atomic_file(copy) as temporary:
                shutil.copyfile(source, temporary)
    images = [{"id": index, "file_name": f"{folder.name}/{rows[index][0]}"} for index in sorted(held_out)]
    rest = [f"{folder.name}/{file}\t{name}\n" for index, (file, name) in enumerate(rows) if index not in held_out]
    calibration, evaluation = (out / f"{folder.name}-{part}" for part in ("calibration.json", "evaluation.tsv"))
    write_json(calibration, {"images": images, "annotations": [], "categories": []})
    with atomic_file(evaluation) as temporary:
        temporary.write_text("".join(rest), encoding="utf-8")
    return calibration, evaluation
