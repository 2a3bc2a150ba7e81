"""What a bundle's install.sh does on the device: check it, build the engine, self-test, time, say what it got.

    sh install.sh [--iterations N]

Everything is made in the bundle's own folder: engine/, which can be copied from there, found.json, latency.json, and
installed.json with the figures. It may be run again: what is done is skipped, unless the device has changed.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from effedge.deploy.common.cli import EXIT_USER_ERROR, Parser, UserError, run
from effedge.deploy.common.files import explain_os_error, read_json, whole_file
from effedge.deploy.common.progress import LINES
from effedge.deploy.runtime.backends import BACKENDS
from effedge.engines.device import Found, find_target
from effedge.engines.stage import record_path, run_stage
from effedge.engines.targets import TARGETS

BUNDLE, DEVICE, INSTALLED = Path("bundle.json"), Path("device.json"), Path("installed.json")
MODEL, PICTURE, EXPECTED = Path("model/model.onnx"), Path("selftest/picture.png"), Path("selftest/expected.json")
ENGINE, FOUND, LATENCY = Path("engine"), Path("found.json"), Path("latency.json")
MADE = (ENGINE, FOUND, LATENCY)
BUILD, PREDICT, TIME = "effedge.engines.build", "effedge.deploy.predict", "effedge.deploy.latency"
LEAST_PILLOW = (9, 1)
REMEDY = "unpack the bundle again"


def main() -> None:
    parser = Parser(prog="install.sh", description=__doc__)
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="time N runs, and no throughput (default: ten seconds of runs)"
    )
    options: Any = parser.parse_args()
    if options.iterations is not None and options.iterations < 1:
        parser.error(f"--iterations {options.iterations}: expected 1 or more")
    check_packages()
    bundle = read_json(BUNDLE, REMEDY)
    found = find_target(TARGETS[bundle["target"]])
    stand_in = f" in place of {bundle['target']}" if found.target.name != bundle["target"] else ""
    jetson = f", Jetson Linux {found.l4t}" if found.l4t else ""
    print(
        f"install: {bundle['name']} on {found.target.backend} {found.version} ({found.target.name}{stand_in}){jetson}"
    )
    with explain_os_error(Path.cwd()):
        forget_another_device(found)
        build(bundle, found)
        backend, _ = BACKENDS[found.target.backend]
        outcome = self_test(bundle, backend)
        figures = measure(options.iterations, backend)
        report(bundle, found, outcome, figures)


def check_packages() -> None:
    """UserError unless NumPy and a Pillow that is new enough are here."""
    try:
        import numpy  # noqa: F401
        import PIL
    except ImportError as error:
        raise UserError(f"{error} in {sys.executable}: install python3-numpy and python3-pil, or with pip") from error
    if tuple(int(part) for part in re.findall(r"\d+", PIL.__version__)[:2]) < LEAST_PILLOW:
        raise UserError(f"Pillow {PIL.__version__} is here, expected 9.1 or later: pip install --upgrade pillow")


def forget_another_device(found: Found) -> None:
    """Remove what was made with another backend, or on another device: a plan runs only where it was built."""
    here = {
        "machine": [platform.node(), platform.machine()],
        "target": found.target.name,
        "version": found.version,
        "l4t": found.l4t,
    }
    if DEVICE.exists() and read_json(DEVICE, "remove it") != here:
        print("install: this device or its backend has changed, so everything is made anew")
        for path in MADE:
            record_path(path).unlink(missing_ok=True)
            if path.is_dir():
                shutil.rmtree(str(path))
            else:
                path.unlink(missing_ok=True)
    write_json(DEVICE, here)


def build(bundle: Dict[str, Any], found: Found) -> None:
    options = ["--precision", bundle["precision"], "--target", found.target.name, "--out", str(ENGINE)]
    call(BUILD, str(MODEL), *options, *bundle["build_options"])


def self_test(bundle: Dict[str, Any], backend: str) -> Dict[str, Any]:
    """Run the bundled picture, unless that is done; UserError if the engine does not find what it should."""
    from effedge.engines.selftest import TOLERANCES, compare

    threshold = [] if bundle["threshold"] is None else ["--threshold", str(bundle["threshold"])]
    run_stage(
        "self-test",
        FOUND,
        inputs={"manifest": ENGINE / "manifest.json", "picture": PICTURE, "expected": EXPECTED},
        options={"threshold": bundle["threshold"]},
        tools=[],
        code=[PREDICT, backend],
        make=lambda path: call(PREDICT, str(ENGINE), str(PICTURE), "--json", str(path), *threshold),
    )
    outcome = compare(read_json(EXPECTED, REMEDY), read_json(FOUND, "remove it")[0], bundle["precision"])
    least_iou, most_apart = TOLERANCES[bundle["precision"]]
    if outcome.problems:
        more = f" (and {len(outcome.problems) - 1} more)" if len(outcome.problems) > 1 else ""
        raise UserError(
            f"the engine does not find what {bundle['reference']} finds in {PICTURE} (within IoU {least_iou}, scores "
            f"{most_apart}): {outcome.problems[0]}{more}; do not use it, and build another precision"
        )
    what = "class" if bundle["threshold"] is None else f"{outcome.expected} detections"
    nothing = ", which shows only that it runs" if not outcome.expected else ""
    boxes = "" if bundle["threshold"] is None else f"boxes within IoU {outcome.iou:.3f} ({least_iou} asked), "
    print(
        f"self-test: passed, the {what} of {bundle['reference']}{nothing}: {boxes}"
        f"scores within {outcome.score:.4f} ({most_apart} asked)"
    )
    return {"expected": outcome.expected, "iou": round(outcome.iou, 4), "score": round(outcome.score, 4)}


def measure(iterations: Optional[int], backend: str) -> Dict[str, Any]:
    """Time the engine, unless that is done; the report of `effedge latency --json`."""
    few = [] if iterations is None else ["--iterations", str(iterations), "--no-throughput"]
    run_stage(
        "latency",
        LATENCY,
        inputs={"manifest": ENGINE / "manifest.json", "picture": PICTURE},
        options={"iterations": iterations},
        tools=[],
        code=[TIME, backend],
        make=lambda path: call(TIME, str(ENGINE), str(PICTURE), "--json", str(path), *few),
    )
    return read_json(LATENCY, "remove it")


def report(bundle: Dict[str, Any], found: Found, outcome: Dict[str, Any], figures: Dict[str, Any]) -> None:
    """Write installed.json and print what it got, the engine's folder last."""
    manifest = read_json(ENGINE / "manifest.json", "remove it")
    steps = {name: {key: row[key] for key in ("p50", "p90", "p99")} for name, row in figures["steps"].items()}
    got = {
        **{key: bundle[key] for key in ("name", "model", "precision", "target")},
        "built_for": found.target.name,
        "backend": manifest["backend"],
        "convolutions": manifest["precision"]["convolutions"],
        "l4t": found.l4t,
        "machine": figures["machine"],
        "self_test": outcome,
        "latency_ms": steps,
    }
    write_json(INSTALLED, got)
    whole = steps.get("end to end", steps["engine"])
    print(
        f"install: {bundle['name']} runs here: engine p50 {steps['engine']['p50']:.2f} ms, p99 "
        f"{steps['engine']['p99']:.2f} ms; end to end p50 {whole['p50']:.2f} ms"
    )
    print(Path.cwd() / ENGINE)


def call(module: str, *words: str) -> None:
    """Run one of our scripts with this Python. What it refuses it has said itself, in one line: then end as it did."""
    environment = dict(os.environ)
    if not sys.stderr.isatty():
        environment[LINES] = "lines"
    sys.stdout.flush()
    status = subprocess.run([sys.executable, "-m", module, *words], env=environment, check=False).returncode
    if status == EXIT_USER_ERROR:
        sys.exit(EXIT_USER_ERROR)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise UserError(f"python -m {module} {' '.join(words)} ended with {how}: what it printed above says why")


def write_json(path: Path, content: Dict[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
