"""Proves models on a board: installs every precision there, compares, races and soaks them, and writes one report.

    effedge prove user@board --models d0 b0

Each model is bundled at each precision, also for a DLA where the board has one (FP16 and INT8), and installed as
`effedge deploy` does it. Then, on the board (engines/proof/prove.py),

1. its results in the bundle's images are compared with those of the same ONNX on ONNX Runtime here;
2. it runs in turns with the model's FP16 engine, or FP32 where there is no FP16;
3. the first model's INT8 engine runs without a pause for --soak seconds, while temperature, clocks and throttling are
   read.

Whatever cannot be built, or does not agree, is a row of the report with its reason, and not the end. Each step that is
done is skipped by the next run of the same command: after a lost connection, or Ctrl-C, it goes on. What runs on the
board runs on without the connection. The report is OUT/prove-BOARD/report.json and report.html, which is one file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import atomic_file, read_json, write_json
from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import add_build_folder
from effedge.deploy.runtime.manifest import NAME as MANIFEST
from effedge.engines.build_options import BuildOptions, add_build_options, read_build_options
from effedge.engines.install import ENGINE, INSTALLED, LATENCY
from effedge.engines.proof.prove import PROOF
from effedge.engines.targets import PRECISIONS, TARGETS, Target
from effedge.pipeline.chain import run_chain
from effedge.pipeline.models.tables import SIZE_HELP, Size, is_detector, parse_size
from effedge.pipeline.request import Checkpoint, Request
from effedge.pipeline.shipping.bundle import device_files, pack
from effedge.pipeline.shipping.proof_page import page
from effedge.pipeline.shipping.proof_report import Row, make_report, new_row, readme_row, table
from effedge.pipeline.shipping.push import deploy, fetch, names_there, run_job
from effedge.pipeline.shipping.ssh import Board, ConnectionLost, quoted

# The first two come with weights that find something. The detector for the smallest boards has none here; its latency
# does not depend on them.
MODELS = ("d0", "b0", "det-lite0:random")
DETECTOR_IMAGES, CLASSIFIER_IMAGES = 12, 48
SOAK_SECONDS = 600
DLA_PRECISIONS = ("fp16", "int8")
BASELINES = ("fp16", "fp32")  # the first of them that is installed is raced with
SOAKED = ("int8", "fp16", "fp32")  # the first of them that is installed
# Prints the name of the board's target and the reason. The code is unpacked for that alone.
FIND_TARGET = """
mkdir -p effedge && cd effedge && rm -rf .probe && mkdir .probe && tar xzf - -C .probe && cd .probe/code &&
    PATH=$PATH:/usr/local/cuda/bin {python} -c '
from effedge.deploy.common.cli import run
from effedge.engines.targets import automatic_target
def main():
    target, reason = automatic_target()
    print(target.name)
    print(reason)
run(main)'
status=$?
cd "$HOME/effedge" && rm -rf .probe
exit $status
"""


@dataclass(frozen=True)
class Case:
    """An engine to be proved."""

    checkpoint: Checkpoint
    precision: str
    dla: bool = False

    @property
    def label(self) -> str:
        return f"{self.checkpoint.model} {self.precision}{' on the DLA' if self.dla else ''}"


@dataclass(frozen=True)
class Plan:
    """What is to be proved and with what.

    Attributes:
        python: the board's.
        soak: seconds; 0: no soak.
        iterations: runs of each latency measurement; None: seconds of them.
        key: as of `deploy`.
    """

    checkpoints: Sequence[Checkpoint]
    precisions: Sequence[str]
    target: Target
    out: Path
    calibration: Path | None
    build_options: BuildOptions
    python: str
    soak: float
    iterations: int | None = None
    key: Path | None = None


def prove(plan: Plan, board: Board) -> Path:
    """Proves all cases; returns the folder of the report, which is written anew after each case. Rows of an earlier run
    stay there until there are newer ones.

    Raises:
        ConnectionLost: without a connection; the next run goes on.
        UserError: no case could be installed.
    """
    folder = plan.out / f"prove-{board.word}"
    rows = earlier_rows(folder / "report.json", plan, board)
    labels: list[str] = []
    for row in proved(plan, board):
        labels.append(row["label"])
        add_row(rows, row)
        report = make_report(plan.target, board.host, list(rows.values()))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "report.json", report)
        with atomic_file(folder / "report.html") as temporary:
            temporary.write_text(page(report), encoding="utf-8")
    if not any(rows[label]["installed"] for label in labels):
        reason = rows[labels[0]]["reason"]
        raise UserError(f"nothing could be installed on '{board.host}' ({folder}/report.html says more): {reason}")
    return folder


def earlier_rows(path: Path, plan: Plan, board: Board) -> dict[str, Row]:
    """Reads the rows of the report of an earlier run, by label; none if it is of another effedge or target."""
    if not path.exists():
        return {}
    report, empty = read_json(path, "remove it"), make_report(plan.target, board.host, [])
    same = all(report.get(name) == empty[name] for name in ("format", "effedge", "target"))
    return {row["label"]: row for row in report["rows"]} if same else {}


def add_row(rows: dict[str, Row], row: Row) -> None:
    """Puts a row of this run in the place of an earlier one, unless that has the proof of the same installation, which
    this one lacks so far; removes rows of another state of the board."""
    for label, other in list(rows.items()):
        if row["installed"] and other["installed"] and state(row["installed"]) != state(other["installed"]):
            del rows[label]
    earlier = rows.get(row["label"])
    unproved = row["installed"] and not row["reason"] and not row["proof"]
    if not (unproved and earlier and earlier["proof"] and earlier["installed"] == row["installed"]):
        rows[row["label"]] = row


def state(installed: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what engines of one board have in common: the machine, Jetson Linux, and the backend."""
    backend = installed["backend"]
    return installed["machine"], installed["l4t"], backend["name"], backend.get("version")


def proved(plan: Plan, board: Board) -> Iterator[Row]:
    """Yields the row of each case when it is installed, and again when it is proved."""
    for checkpoint in plan.checkpoints:
        archives: dict[Case, Path] = {}
        rows: dict[Case, Row] = {}
        for case in cases(plan, checkpoint):
            rows[case] = new_row(checkpoint.model, checkpoint.weights, case.precision, case.dla)
            try:
                archives[case] = make_bundle(case, plan)
                read_installed(rows[case], deploy(archives[case], board, plan.python, plan.iterations, plan.key))
            except ConnectionLost:
                raise
            except UserError as error:
                rows[case]["reason"] = str(error)
                log.warning(f"prove: {case.label} is not installed: {error}")
                archives.pop(case, None)
            yield rows[case]
        baseline, soaked = first_of(BASELINES, archives), first_of(SOAKED, archives)
        for case, archive in archives.items():
            beside = archives[baseline] if baseline and case is not baseline else None
            rows[case]["beside"] = baseline.precision if baseline and beside else None
            try:
                run_proof(rows[case], archive, beside, board, plan if case is soaked else replace(plan, soak=0))
            except ConnectionLost:
                raise
            except UserError as error:
                rows[case]["reason"] = str(error)
                log.warning(f"prove: {case.label}: {error}")
            yield rows[case]
        plan = replace(plan, soak=0) if soaked else plan


def cases(plan: Plan, checkpoint: Checkpoint) -> list[Case]:
    """Lists the cases of a model: each precision, and each that a DLA has, where the target has one."""
    plain = [Case(checkpoint, precision) for precision in plan.precisions]
    return plain + [replace(case, dla=True) for case in plain if plan.target.dla and case.precision in DLA_PRECISIONS]


def first_of(precisions: Sequence[str], installed: Collection[Case]) -> Case | None:
    """Returns the case of the first of the precisions that is installed, on the GPU or CPU; None without any."""
    return next((case for name in precisions for case in installed if case.precision == name and not case.dla), None)


def make_bundle(case: Case, plan: Plan) -> Path:
    """Runs the chain and packs the bundle; returns the archive's path."""
    options = replace(plan.build_options, dla="fallback") if case.dla else plan.build_options
    request = Request(
        case.checkpoint, case.precision, plan.target, plan.out, calibration=plan.calibration, until="bundle",
        build_options=options,
        proof_images=DETECTOR_IMAGES if is_detector(case.checkpoint.model) else CLASSIFIER_IMAGES,
    )  # fmt: skip
    return run_chain(request)


def read_installed(row: Row, folder: Path) -> None:
    """Reads the results that `deploy` has brought back, into the row."""
    row["installed"], row["latency"], manifest = (
        read_json(folder / name, "run it again") for name in (INSTALLED.name, LATENCY.name, MANIFEST)
    )
    if row["latency"]:
        del row["latency"]["samples_ms"]
    row["traffic"] = manifest.get("traffic")


def run_proof(row: Row, archive: Path, beside: Path | None, board: Board, plan: Plan) -> None:
    """Runs the proof of an installed bundle on the board, with a soak if the plan has one; its result goes into the
    row.

    Args:
        beside: the bundle of the engine that it is raced with.
    """
    names = names_there(archive, plan.python)
    words = ["sh install.sh prove", f"--soak {plan.soak:g}"]
    if beside is not None:
        words.append(f"--beside ../{names_there(beside, plan.python)['name']}/{ENGINE}")
    log.info(f"prove: {names['name']}")
    run_job(board, names, "prove", " ".join(words))
    folder = archive.with_name(f"{names['name']}@{board.word}-proof")
    fetch(board, names, [str(PROOF)], folder)
    row["proof"] = proof = read_json(folder / PROOF.name, "run it again")
    disagreement = (proof["agreement"] or {}).get("disagreement")
    row["reason"] = "; ".join([*proof["problems"], *([disagreement] if disagreement else [])])


def find_target(board: Board, python: str) -> Target:
    """Asks the board which target it is. Raises UserError as `effedge.engines.targets.automatic_target` there."""
    code = pack("code", {name: path.read_bytes() for path, name in device_files().items()})
    name, reason = board.run(FIND_TARGET.format(python=quoted(python)), code).decode().splitlines()[-2:]
    log.info(f"target auto: {name} (on '{board.host}' {reason})")
    return TARGETS[choose("target", name, TARGETS)]


def read_checkpoint(text: str, size: Size | None) -> Checkpoint:
    """Reads a word of --models: a model, or MODEL:WEIGHTS.

    >>> read_checkpoint("lite0:imagenet", None)
    Checkpoint(model='lite0', weights='imagenet', size=None, batch=(1, 1, 1), classes=None, labels=None, anchors=None)
    """
    model, _, weights = text.partition(":")
    return Checkpoint(model, weights or "digits", size=size)


def read_plan(arguments: argparse.Namespace, board: Board) -> Plan:
    """Makes the plan of the command's arguments; asks the board for its target where they do not say it."""
    if arguments.soak < 0:
        raise UserError(f"SOAK (--soak) {arguments.soak:g}: expected seconds, 0 or more")
    if arguments.iterations is not None and arguments.iterations < 1:
        raise UserError(f"--iterations {arguments.iterations}: expected 1 or more")
    options = read_build_options(arguments)
    if options.dla:
        raise UserError("effedge prove builds for a DLA where there is one: leave --dla out")
    checkpoints = [read_checkpoint(text, arguments.size) for text in arguments.models]
    precisions = [choose("precision", name, PRECISIONS) for name in arguments.precisions]
    choose("target", arguments.target, ["auto", *TARGETS])
    automatic = arguments.target == "auto"
    target = find_target(board, arguments.device_python) if automatic else TARGETS[arguments.target]
    return Plan(
        checkpoints, precisions, target, arguments.out, arguments.calibration, options, arguments.device_python,
        arguments.soak, arguments.iterations, arguments.key,
    )  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("host", metavar="HOST", help="user@board, or a Host of ~/.ssh/config")
    models = f"models, as MODEL or MODEL:WEIGHTS (default: {' '.join(MODELS)})"
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="M", help=models)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, metavar="P", help=", ".join(PRECISIONS))
    parser.add_argument(
        "--target", default="auto", metavar="T", help=f"auto (the board is asked), {', '.join(TARGETS)}"
    )
    soak = "seconds of the soak; 0: none (default: %(default)s)"
    parser.add_argument("--soak", type=float, default=SOAK_SECONDS, metavar="SECONDS", help=soak)
    iterations = "runs of each latency measurement (default: seconds of them)"
    parser.add_argument("--iterations", type=int, metavar="N", help=iterations)
    parser.add_argument("--size", type=parse_size, help=f"{SIZE_HELP} (default: the weights' own)")
    parser.add_argument("--calibration", type=Path, help="images, for INT8 and for the comparison of results")
    add_build_options(parser)
    python = "the device's Python, such as a venv's that sees the system's packages (default: %(default)s)"
    parser.add_argument("--device-python", default="python3", metavar="PATH", help=python)
    key = "a private key, which signs the bundles that the board then trusts alone, as with `effedge deploy --key`"
    parser.add_argument("--key", type=Path, metavar="FILE", help=key)
    parser.add_argument("--ssh-options", default="", metavar="TEXT", help='more for ssh, such as "-p 2222 -i key"')
    add_build_folder(parser)
    parser.add_quiet()
    arguments = parser.parse_args()
    board = Board(arguments.host, arguments.ssh_options)
    with locked(arguments.out / f"prove-{board.word}"):
        folder = prove(read_plan(arguments, board), board)
    report = read_json(folder / "report.json", "run it again")
    sys.stdout.flush()
    print(table(report["rows"]))
    print("the row for the README's table of targets:")
    print(readme_row(report))
    print(folder / "report.html")
