"""Installs a bundle on a device: checks the device, builds the engine, tests it, times it, and reports the figures.

    sh install.sh [--iterations N]

All files are made in the bundle's own folder: engine/, which can be copied from there, found.json, latency.json, and
installed.json with the figures. They are made in candidate/ first and move up once the engine has passed its self-test
and was timed, so that an engine of an earlier installation serves until then, and stays if anything fails. The command
may be run again: a finished step is skipped unless the device changed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from effedge.deploy.common.cli import EXIT_USER_ERROR, Parser, UserError, run
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.files import explain_os_error, read_json, write_json
from effedge.deploy.common.messages import LINES, log
from effedge.deploy.runtime.backends import BACKENDS
from effedge.deploy.runtime.manifest import NAME as MANIFEST
from effedge.engines.device import DetectedDevice, detect_device
from effedge.engines.installation.candidate import (
    BUNDLE,
    CANDIDATE,
    ENGINE,
    EXPECTED,
    FALLBACK,
    IMAGE,
    INSTALLED,
    LATENCY,
    MODEL,
    OUTPUTS,
    PREDICTION,
    RANGES,
    begin_candidate,
    keep_earlier_engine,
    move_up,
)
from effedge.engines.installation.launch import command
from effedge.engines.stage import json_stage
from effedge.engines.targets import TARGETS
from effedge.engines.targets.packages import how_to_pip_install

LEAST_PILLOW = (7, 0)
REMEDY = "unpack the bundle again"
ERROR = "error: "  # the beginning of the line that effedge.deploy.common.cli.run prints


def main() -> None:
    parser = Parser(prog="install.sh", description=__doc__)
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="time N runs, and no throughput (default: ten seconds of runs)"
    )
    arguments = parser.parse_args()
    if arguments.iterations is not None and arguments.iterations < 1:
        parser.error(f"--iterations {arguments.iterations}: expected 1 or more")
    check_packages()
    with keep_earlier_engine(), explain_os_error(Path.cwd()):
        bundle = read_json(BUNDLE, REMEDY)
        device = detect_device(TARGETS[bundle["target"]])
        target = device.target
        stand_in = f" in place of {bundle['target']}" if target.name != bundle["target"] else ""
        jetson = f", Jetson Linux {device.l4t}" if device.l4t else ""
        log.info(f"install: {bundle['name']} on {target.backend} {device.version} ({target.name}{stand_in}){jetson}")
        begin_candidate(device)
        build(bundle, device)
        backend, _ = BACKENDS[target.backend]
        outcome = self_test(bundle, backend)
        figures = measure(arguments.iterations, backend)
        report(bundle, device, outcome, figures)
        move_up()
    print(lasting_folder(Path.cwd()) / ENGINE)


def lasting_folder(folder: Path) -> Path:
    """Returns the path of a bundle's folder that stays valid when another bundle of its name is installed: the link
    NAME that `effedge deploy` makes to the folder .NAME-HASH, where there is one."""
    match = re.fullmatch(r"\.(.+)-[0-9a-f]{16}", folder.name)
    name = folder.with_name(match.group(1)) if match else folder
    return name if name.is_dir() and name.samefile(str(folder)) else folder


def check_packages() -> None:
    """Raises UserError unless NumPy and a Pillow that is new enough are installed."""
    try:
        import numpy  # noqa: F401
        import PIL
    except ImportError as error:
        with_pip = how_to_pip_install("numpy pillow")
        raise UserError(f"{error} in {sys.executable}: install python3-numpy and python3-pil, or {with_pip}") from error
    if tuple(int(part) for part in re.findall(r"\d+", PIL.__version__)[:2]) < LEAST_PILLOW:
        raise UserError(
            f"Pillow {PIL.__version__} is here, expected 7.0 or later: {how_to_pip_install('--upgrade pillow')}"
        )


def build(bundle: Dict[str, Any], device: DetectedDevice) -> None:
    """Builds the engine, unless that is done."""
    options = ["--precision", bundle["precision"], "--target", device.target.name]
    options += ["--out", str(CANDIDATE / ENGINE), "--compare-on", str(IMAGE)]
    if FALLBACK.exists():
        options += ["--fallback", str(FALLBACK)]
    if RANGES.exists():
        options += ["--ranges", str(RANGES)]
    call("build", str(MODEL), *options, *bundle["build_options"])


def self_test(bundle: Dict[str, Any], backend: str) -> Dict[str, Any]:
    """Runs the bundled image, unless that is done, and returns the comparison with the expected result.

    Raises UserError if the engine does not find what is expected.
    """
    from effedge.engines.selftest import (
        TOLERANCES,
        compare,
        compare_outputs,
    )  # need NumPy: check_packages looked for it

    threshold = [] if bundle["threshold"] is None else ["--threshold", str(bundle["threshold"])]
    [predicted] = json_stage(
        "self-test",
        CANDIDATE / PREDICTION,
        inputs={"manifest": CANDIDATE / ENGINE / MANIFEST, "image": IMAGE, "expected": EXPECTED},
        options={"threshold": bundle["threshold"]},
        code=["effedge.deploy.predict", backend],
        make=lambda path: call("predict", str(CANDIDATE / ENGINE), str(IMAGE), "--json", str(path), *threshold),
    )
    outcome = compare(read_json(EXPECTED, REMEDY), predicted, bundle["precision"])
    least_iou, max_difference = TOLERANCES[bundle["precision"]]
    if outcome.problems:
        more = f" (and {len(outcome.problems) - 1} more)" if len(outcome.problems) > 1 else ""
        raise UserError(
            f"the engine does not find what {bundle['reference']} finds in {IMAGE} (within IoU {least_iou}, scores "
            f"{max_difference}): {outcome.problems[0]}{more}; do not use it, and build another precision"
        )
    decibels = compare_outputs(CANDIDATE / ENGINE, IMAGE, OUTPUTS, bundle["precision"])
    result = "class" if bundle["threshold"] is None else f"{outcome.expected} detections"
    without_expected = ", which shows only that it runs" if not outcome.expected else ""
    boxes = "" if bundle["threshold"] is None else f"boxes within IoU {outcome.iou:.3f} ({least_iou} asked), "
    log.info(
        f"self-test: passed, the {result} of {bundle['reference']}{without_expected}: {boxes}"
        f"scores within {outcome.score:.4f} ({max_difference} asked), all outputs within {decibels:.0f} dB"
    )
    figures = {"expected": outcome.expected, "iou": round(outcome.iou, 4), "score": round(outcome.score, 4)}
    return {**figures, "decibels": decibels}


def measure(iterations: Optional[int], backend: str) -> Dict[str, Any]:
    """Times the engine, unless that is done; returns the report of `effedge latency --json`."""
    count = [] if iterations is None else ["--iterations", str(iterations), "--no-throughput"]

    def time_engine(path: Path) -> None:
        call("latency", str(CANDIDATE / ENGINE), str(IMAGE), "--json", str(path), *count)
        figures = read_json(path, "remove it")
        figures["engine"]["folder"] = str(ENGINE)  # where it will be
        write_json(path, figures)

    figures: Dict[str, Any] = json_stage(
        "latency",
        CANDIDATE / LATENCY,
        inputs={"manifest": CANDIDATE / ENGINE / MANIFEST, "image": IMAGE},
        options={"iterations": iterations},
        code=["effedge.deploy.latency", backend],
        make=time_engine,
    )
    return figures


def report(bundle: Dict[str, Any], device: DetectedDevice, outcome: Dict[str, Any], figures: Dict[str, Any]) -> None:
    """Writes installed.json, and says the figures."""
    manifest: Manifest = read_json(CANDIDATE / ENGINE / MANIFEST, "remove it")
    steps = {name: {key: row[key] for key in ("p50", "p90", "p99")} for name, row in figures["steps"].items()}
    installed = {
        **{key: bundle[key] for key in ("name", "model", "precision", "target")},
        "built_for": device.target.name,
        "backend": manifest["backend"],
        "convolutions": manifest["precision"]["convolutions"],
        "fallback": manifest.get("fallback"),
        "l4t": device.l4t,
        "machine": figures["machine"],
        "self_test": outcome,
        "latency_ms": steps,
    }
    write_json(CANDIDATE / INSTALLED, installed)
    end_to_end = steps.get("end to end", steps["engine"])
    plan_b = ""
    if "fallback" in manifest:
        layers, reason = manifest["fallback"]["layers"], manifest["fallback"]["reason"]
        plan_b = f"; it is plan B, with {len(layers)} more layers in 16 bit, because {reason}"
    log.info(
        f"install: {bundle['name']} runs here: engine p50 {steps['engine']['p50']:.2f} ms, p99 "
        f"{steps['engine']['p99']:.2f} ms; end to end p50 {end_to_end['p50']:.2f} ms{plan_b}"
    )


def call(name: str, *words: str) -> None:
    """Runs a command of effedge with this Python. Raises UserError, where it ends with one with the same words.

    The command is killed if this process is interrupted: not every builder can be cancelled, and a second one beside
    it may not fit into the board's memory.
    """
    environment = {**os.environ, LINES: "lines"}  # its messages go through a pipe, where a bar would not be shown
    sys.stdout.flush()
    error = ""
    with subprocess.Popen(
        command("effedge", name, *words), env=environment, stderr=subprocess.PIPE, errors="replace"
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith(ERROR):
                    error = line[len(ERROR) :].strip()
                else:
                    sys.stderr.write(line)
                    sys.stderr.flush()
        except BaseException:
            process.kill()
            raise
    status = process.returncode
    if status == EXIT_USER_ERROR and error:
        raise UserError(error)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise UserError(f"effedge {name} {' '.join(words)} ended with {how}: what it printed above says why")


if __name__ == "__main__":
    run(main)
