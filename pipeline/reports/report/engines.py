"""Reads the engines of a report, and runs them on its labelled images.

An engine that cannot run on this machine keeps the reason: its manifest is reported, its results are not.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.files import sha256_of_path
from effedge.deploy.common.messages import log, track
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.engine import CLASS_OF_TASK
from effedge.deploy.runtime.manifest import read_manifest
from effedge.pipeline.datasets.labelled import model_class_ids
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.evaluation.evaluate import MAX_DETECTIONS, THRESHOLD
from effedge.pipeline.shipping.sbom import recorded_stages


@dataclass
class ReportedEngine:
    """An engine of a report.

    Attributes:
        name: its name on the page, which no other engine has.
        class_ids: the model's class id for each class of the data; None for a class that the model does not have.
        results: its Detections or Classification for each image; None where the engine did not run.
        reason: why it did not run.
        latencies: its latencies in ms, empty where they were not measured.
    """

    folder: Path
    manifest: Manifest
    name: str
    class_ids: Sequence[int | None] = ()
    results: list[Any] | None = None
    reason: str = ""
    latencies: list[float] = field(default_factory=list)

    @property
    def precision(self) -> str:
        """The precision that was asked for; "" where the manifest does not say."""
        return str(self.manifest.get("precision", {}).get("asked", ""))

    @functools.cached_property  # the whole engine is hashed
    def stages(self) -> list[dict[str, Any]]:
        """The stages' records beside the engine that lead to it, or where it has none of its own to its ONNX; the last
        stage first."""
        folder = self.folder.resolve()
        digests = (sha256_of_path(folder), self.manifest.get("sources", {}).get("onnx", ""))
        return next((records for digest in digests if (records := recorded_stages(folder.parent, digest))), [])


def read_engines(folders: Sequence[Path]) -> list[ReportedEngine]:
    """Reads the manifests of engines, and checks their files. The reference comes first: the FP32 engine if there is
    one, else the first of the folders.

    Raises:
        UserError: an engine that is damaged or takes arrays, engines of different tasks, or one engine twice.
    """
    manifests = [read_manifest(folder) for folder in folders]
    tasks = [manifest["spec"].get("task") for manifest in manifests]
    for folder, task in zip(folders, tasks, strict=True):
        if task not in CLASS_OF_TASK:
            raise UserError(
                f"'{folder}' is an engine of an ONNX that does not say what its outputs mean: a report is for "
                f"engines for {' or '.join(CLASS_OF_TASK)}"
            )
        if task != tasks[0]:
            raise UserError(
                f"'{folder}' is an engine for {task}, '{folders[0]}' is one for {tasks[0]}: give engines of one task"
            )
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise UserError(f"the engine '{folder}' was given {count} times: give each engine once")
    names = distinct_names(folders, manifests)
    engines = [ReportedEngine(*row) for row in zip(folders, manifests, names, strict=True)]
    return sorted(engines, key=lambda engine: engine.precision != "fp32")  # a stable sort


def distinct_names(folders: Sequence[Path], manifests: Sequence[Manifest]) -> list[str]:
    """Names the engines: by model and precision where that tells them apart, else with the target too, else by their
    folders."""
    precisions = [str(manifest.get("precision", {}).get("asked", "?")).upper() for manifest in manifests]
    models = [f"{m['spec']['model']} {precision}" for m, precision in zip(manifests, precisions, strict=True)]
    targets = [f"{name} {m.get('target', '?')}" for name, m in zip(models, manifests, strict=True)]
    paths = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    for names in (models, targets, paths):
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]


def run_on(engines: Sequence[ReportedEngine], data: DataSet) -> None:
    """Runs the engines on the data's images, one engine after the other, and keeps their results, or the reason why
    there are none.

    Raises:
        UserError: an engine that has none of the data's classes.
    """
    for engine in engines:  # all of them before the work
        engine.class_ids = model_class_ids(data, engine.manifest["spec"]["labels"])
    paths = [record.path for record in data.records]
    for engine in engines:
        try:
            results = results_of(engine.folder, data.task, paths)
            engine.results = list(track(results, total=len(paths), desc=engine.name, unit="image"))
        except UserError as error:
            engine.reason = str(error)
            log.warning(f"note: {engine.name} is not run here: {error}")


def results_of(folder: Path, task: str, paths: Sequence[Path]) -> Iterator[Any]:
    """Yields an engine's results with the settings of an evaluation: a detector's best 100 candidates, whatever their
    scores are."""
    if task == "detection":
        return Detector(folder, THRESHOLD, max_detections=MAX_DETECTIONS).stream(paths)
    return cast("Iterator[Any]", Classifier(folder).stream(paths))
