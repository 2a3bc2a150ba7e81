"""Says what the engines of a report are and what they were made of: from their manifests and the stages' records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.files import read_text, sha256
from effedge.pipeline.artefact_folder import SOURCE
from effedge.pipeline.reports.engine_table import size_mb, work_by_precision
from effedge.pipeline.reports.report.engines import ReportedEngine
from effedge.pipeline.weights.published import PUBLISHED

# NOTICE and docs/models.md state the same.
DIGITS = "bundled with effedge, trained from EfficientNet-Lite0's ImageNet weights, which are Apache 2.0"
TERMS = {
    "digits": DIGITS,
    "bccd": f"{DIGITS}; trained on images of BCCD (MIT licence, Shenggan)",
    "random": "random numbers: of no accuracy, and nobody's",
}
UNRECORDED = "licence not recorded: ask whoever made the weights"
CLASSES_NAMED = 12
LEAST_SHARE = 0.0005  # that is not 0.0% on the page
REASON = 90  # letters of the reason why a layer is kept in 16 bit


@dataclass(frozen=True)
class Precision:
    """The precision of an engine as built.

    shares: (type, share, 0 to 1) of the multiply-accumulates, largest first; of the layers, where `of_layers`.
    kept: (reason, number of layers) of layers that calibration kept out of the precision.
    not_built: the number of layers that the backend built in another precision.
    """

    asked: str
    shares: list[tuple[str, float]]
    of_layers: bool
    kept: list[tuple[str, int]]
    not_built: int
    source: str


@dataclass(frozen=True)
class Stage:
    """A stage that engines were made by: what it made, with the SHA-256, and its inputs, options and tools, each as
    "name: value"."""

    name: str
    made: str
    sha256: str
    inputs: list[str]
    details: list[str]


def card(engines: Sequence[ReportedEngine]) -> list[tuple[str, list[str]]]:
    """Returns the rows of the model card: a name, and a cell for each engine, or one cell where all are the same."""
    columns = [card_of(engine) for engine in engines]
    rows = []
    for name in columns[0]:
        cells = [column[name] for column in columns]
        rows.append((name, cells[:1] if len(set(cells)) == 1 else cells))
    return rows


def card_of(engine: ReportedEngine) -> dict[str, str]:
    """Describes an engine by its manifest."""
    manifest = engine.manifest
    spec, backend, frame = manifest["spec"], manifest["backend"], manifest["spec"]["input"]
    height, width = frame["size"]
    names = [label for label in spec["labels"] if label is not None]
    more = f" and {len(names) - CLASSES_NAMED} more" if len(names) > CLASSES_NAMED else ""
    batch = frame["batch"]
    return {
        "model": spec["model"],
        "task": spec["task"],
        "input": f"{height} × {width} (height × width), {frame.get('resize', 'resized')}, {frame['interpolation']}",
        "classes": f"{len(names)}: {', '.join(names[:CLASSES_NAMED])}{more}",
        "precision": engine.precision.upper() or "not recorded",
        "batch": str(batch[0]) if batch[0] == batch[2] else f"{batch[0]} to {batch[2]}, usually {batch[1]}",
        "target": manifest.get("target", "not recorded"),
        "backend": f"{backend.get('name', '?')} {backend.get('version', '')}".strip(),
        "files": f"{size_mb(engine.folder, manifest):.1f} MB in {len(manifest['files'])}",
        "weights": f"{spec.get('weights', 'not recorded')}{source_of(engine.folder)}",
        "provenance": weights_terms(spec["model"], spec.get("weights", "")),
        "folder": str(engine.folder),
    }


def source_of(folder: Path) -> str:
    """Returns what the chain noted as the model's source beside the engine, in brackets; "" where it did not."""
    try:
        source = read_text(folder.resolve().with_name(SOURCE), "a line").strip()
    except UserError:
        return ""
    return f" ({source})" if source else ""


def weights_terms(model: str, weights: str) -> str:
    """Says where weights come from and on which terms, as far as that is known."""
    if weights in TERMS:
        return TERMS[weights]
    published = PUBLISHED.get((model, weights))
    return f"published at {published.url}; the terms of that project apply" if published else UNRECORDED


def precisions(engines: Sequence[ReportedEngine]) -> list[Precision]:
    """Reads the precision of each engine as built."""
    rows = []
    for engine in engines:
        report = engine.manifest.get("precision")
        if report is None:
            rows.append(Precision("", [], True, [], 0, ""))
            continue
        simplified = simplified_onnx(engine)
        [shares] = work_by_precision(simplified, [engine.manifest]) if simplified else [{}]
        of_layers = not shares
        if of_layers:
            count = sum(report["built"].values()) or 1
            shares = {kind: number / count for kind, number in report["built"].items()}
        ordered = sorted(
            ((kind, part) for kind, part in shares.items() if part >= LEAST_SHARE), key=lambda each: -each[1]
        )
        kept = Counter(general(reason) for reason in report["kept"].values()).most_common()
        rows.append(Precision(report["asked"], ordered, of_layers, kept, len(report["not_built"]), report["source"]))
    return rows


def general(reason: str) -> str:
    """Returns the reason why a layer is kept in 16 bit without the layer's own figures, so that it can be counted."""
    text = "in INT8 it adds too much to the output error" if reason.startswith("in INT8 it adds") else reason
    return text if len(text) <= REASON else text[: REASON - 1] + "…"


def simplified_onnx(engine: ReportedEngine) -> Path | None:
    """Returns the simplified ONNX beside an engine, if the engine was made of it by the stages' records."""
    path = engine.folder.resolve().with_name("simplified.onnx")
    if not path.is_file():
        return None
    digest = sha256(path)
    ancestors = {engine.manifest.get("sources", {}).get("onnx")}
    for record in engine.stages:
        ancestors |= set(record["key"]["inputs"].values())
    return path if digest in ancestors else None


def stages(engines: Sequence[ReportedEngine]) -> list[Stage]:
    """Returns the stages of all engines, each once, in the order of the work."""
    found: dict[str, Stage] = {}
    for engine in engines:
        for record in reversed(engine.stages):
            key = record["key"]
            options = {name: value for name, value in key["options"].items() if value not in (None, [], "", False)}
            details = [f"{name}: {value}" for name, value in options.items()]
            tools = [f"{name} {version}" for name, version in key["tools"].items()]
            inputs = [f"{role}: {digest}" for role, digest in key["inputs"].items()]
            stage = Stage(str(key.get("stage", "")), record["artefact"], record["sha256"], inputs, [*details, *tools])
            found.setdefault(stage.sha256, stage)
    return list(found.values())


def warnings_of(manifest: Manifest) -> list[str]:
    """Returns the warnings of an engine's build, and why it was built otherwise than asked."""
    fallback = manifest.get("fallback")
    return [*manifest.get("warnings", []), *([f"plan B: {fallback['reason']}"] if fallback else [])]
