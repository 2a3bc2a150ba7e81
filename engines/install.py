"""Installs a bundle on a device: checks the device, builds the engine, tests it, times it, and reports the figures.

    sh install.sh [--iterations N]

All files are made in the bundle's own folder: engine/, which can be copied from there, found.json, latency.json, and
installed.json with the figures. The command may be run again: a finished step is skipped unless the device changed.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from effedge.deploy.common.cli import EXIT_USER_ERROR, Parser, UserError, run
from effedge.deploy.common.files import explain_os_error, read_json, write_json
from effedge.deploy.common.messages import LINES, log
from effedge.deploy.runtime.backends import BACKENDS
from effedge.engines.device import DetectedDevice, detect_device
from effedge.engines.stage import record_path, run_stage
from effedge.engines.targets import TARGETS

BUNDLE, DEVICE, INSTALLED = Path("bundle.json"), Path("device.json"), Path("installed.json")
MODEL, IMAGE, EXPECTED = Path("model/model.onnx"), Path("selftest/image.png"), Path("selftest/expected.json")
ENGINE, PREDICTION, LATENCY = Path("engine"), Path("found.json"), Path("latency.json")
MADE_HERE = (ENGINE, PREDICTION, LATENCY)
LEAST_PILLOW = (7, 0)
REMEDY = "unpack the bundle again"


def main() -> None:
    parser = Parser(prog="install.sh", description=__doc__)
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="time N runs, and no throughput (default: ten seconds of runs)"
    )
    arguments = parser.parse_args()
    if arguments.iterations is not None and arguments.iterations < 1:
        parser.error(f"--iterations {arguments.iterations}: expected 1 or more")
    check_packages()
    bundle = read_json(BUNDLE, REMEDY)
    device = detect_device(TARGETS[bundle["target"]])
    target = device.target
    stand_in = f" in place of {bundle['target']}" if target.name != bundle["target"] else ""
    jetson = f", Jetson Linux {device.l4t}" if device.l4t else ""
    log.info(f"install: {bundle['name']} on {target.backend} {device.version} ({target.name}{stand_in}){jetson}")
    with explain_os_error(Path.cwd()):
        forget_another_device(device)
        build(bundle, device)
        backend, _ = BACKENDS[target.backend]
        outcome = self_test(bundle, backend)
        figures = measure(arguments.iterations, backend)
        report(bundle, device, outcome, figures)


def check_packages() -> None:
    """Raises UserError unless NumPy and a Pillow that is new enough are installed."""
    try:
        import numpy  # noqa: F401
        import PIL
    except ImportError as error:
        raise UserError(f"{error} in {sys.executable}: install python3-numpy and python3-pil, or with pip") from error
    if tuple(int(part) for part in re.findall(r"\d+", PIL.__version__)[:2]) < LEAST_PILLOW:
        raise UserError(f"Pillow {PIL.__version__} is here, expected 7.0 or later: pip install --upgrade pillow")


def forget_another_device(device: DetectedDevice) -> None:
    """Removes files that were made with another backend or on another device: a plan runs only where it was built."""
    current = {
        "machine": [platform.node(), platform.machine()],
        "target": device.target.name,
        "version": device.version,
        "l4t": device.l4t,
    }
    if DEVICE.exists() and read_json(DEVICE, "remove it") != current:
        log.info("install: this device or its backend has changed, so everything is made anew")
        for path in MADE_HERE:
            record_path(path).unlink(missing_ok=True)
            if path.is_dir():
                shutil.rmtree(str(path))
            else:
                path.unlink(missing_ok=True)
    write_json(DEVICE, current)


def build(bundle: Dict[str, Any], device: DetectedDevice) -> None:
    """Builds the engine, unless that is done."""
    options = ["--precision", bundle["precision"], "--target", device.target.name, "--out", str(ENGINE)]
    call("build", str(MODEL), *options, *bundle["build_options"])


def self_test(bundle: Dict[str, Any], backend: str) -> Dict[str, Any]:
    """Runs the bundled image, unless that is done, and returns the comparison with the expected result.

    Raises UserError if the engine does not find what is expected.
    """
    from effedge.engines.selftest import TOLERANCES, compare  # needs NumPy, which check_packages has looked for

    threshold = [] if bundle["threshold"] is None else ["--threshold", str(bundle["threshold"])]
    run_stage(
        "self-test",
        PREDICTION,
        inputs={"manifest": ENGINE / "manifest.json", "image": IMAGE, "expected": EXPECTED},
        options={"threshold": bundle["threshold"]},
        tools=[],
        code=["effedge.deploy.predict", backend],
        make=lambda path: call("predict", str(ENGINE), str(IMAGE), "--json", str(path), *threshold),
    )
    outcome = compare(read_json(EXPECTED, REMEDY), read_json(PREDICTION, "remove it")[0], bundle["precision"])
    least_iou, max_difference = TOLERANCES[bundle["precision"]]
    if outcome.problems:
        more = f" (and {len(outcome.problems) - 1} more)" if len(outcome.problems) > 1 else ""
        raise UserError(
            f"the engine does not find what {bundle['reference']} finds in {IMAGE} (within IoU {least_iou}, scores "
            f"{max_difference}): {outcome.problems[0]}{more}; do not use it, and build another precision"
        )
    result = "class" if bundle["threshold"] is None else f"{outcome.expected} detections"
    without_expected = ", which shows only that it runs" if not outcome.expected else ""
    boxes = "" if bundle["threshold"] is None else f"boxes within IoU {outcome.iou:.3f} ({least_iou} asked), "
    log.info(
        f"self-test: passed, the {result} of {bundle['reference']}{without_expected}: {boxes}"
        f"scores within {outcome.score:.4f} ({max_difference} asked)"
    )
    return {"expected": outcome.expected, "iou": round(outcome.iou, 4), "score": round(outcome.score, 4)}


def measure(iterations: Optional[int], backend: str) -> Dict[str, Any]:
    """Times the engine, unless that is done; returns the report of `effedge latency --json`."""
    count = [] if iterations is None else ["--iterations", str(iterations), "--no-throughput"]
    run_stage(
        "latency",
        LATENCY,
        inputs={"manifest": ENGINE / "manifest.json", "image": IMAGE},
        options={"iterations": iterations},
        tools=[],
        code=["effedge.deploy.latency", backend],
        make=lambda path: call("latency", str(ENGINE), str(IMAGE), "--json", str(path), *count),
    )
    return read_json(LATENCY, "remove it")


def report(bundle: Dict[str, Any], device: DetectedDevice, outcome: Dict[str, Any], figures: Dict[str, Any]) -> None:
    """Writes installed.json, and prints the figures and the engine's folder."""
    manifest = read_json(ENGINE / "manifest.json", "remove it")
    steps = {name: {key: row[key] for key in ("p50", "p90", "p99")} for name, row in figures["steps"].items()}
    installed = {
        **{key: bundle[key] for key in ("name", "model", "precision", "target")},
        "built_for": device.target.name,
        "backend": manifest["backend"],
        "convolutions": manifest["precision"]["convolutions"],
        "l4t": device.l4t,
        "machine": figures["machine"],
        "self_test": outcome,
        "latency_ms": steps,
    }
    write_json(INSTALLED, installed)
    end_to_end = steps.get("end to end", steps["engine"])
    log.info(
        f"install: {bundle['name']} runs here: engine p50 {steps['engine']['p50']:.2f} ms, p99 "
        f"{steps['engine']['p99']:.2f} ms; end to end p50 {end_to_end['p50']:.2f} ms"
    )
    print(Path.cwd() / ENGINE)


def call(command: str, *words: str) -> None:
    """Runs a command of effedge with this Python. If it ends with a user error, which it has printed itself, exits with
    the same status."""
    environment = dict(os.environ)
    if not sys.stderr.isatty():
        environment[LINES] = "lines"
    sys.stdout.flush()
    status = subprocess.run([sys.executable, "-m", "effedge", command, *words], env=environment, check=False).returncode
    if status == EXIT_USER_ERROR:
        sys.exit(EXIT_USER_ERROR)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise UserError(f"effedge {command} {' '.join(words)} ended with {how}: what it printed above says why")


if __name__ == "__main__":
    run(main)
