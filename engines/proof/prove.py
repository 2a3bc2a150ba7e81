"""Proves an installed engine on its device: agreement in the bundled images, a race with another engine, and a soak.

    sh install.sh prove [--beside ENGINE] [--soak SECONDS]

The installation has tested the engine in one image and timed it. This command, in the same folder, compares its results
in all images of the bundle with those of ONNX Runtime, runs it in turns with another engine, runs it without a pause
for SECONDS, and writes all figures to proof.json. A step that fails is a line there, and does not end the others. The
command may be run again: a finished step is skipped. `effedge prove` on the host packs such bundles and calls it.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from effedge.deploy.common.cli import Parser, UserError, run
from effedge.deploy.common.files import explain_os_error, read_json, write_json
from effedge.deploy.common.messages import LINES, log
from effedge.deploy.runtime.backends import BACKENDS
from effedge.deploy.runtime.manifest import NAME as MANIFEST
from effedge.deploy.runtime.manifest import parse_manifest
from effedge.engines.install import BUNDLE, ENGINE, REMEDY, call, check_packages, lasting_folder
from effedge.engines.stage import json_stage

IMAGES, EXPECTED, PROOF = Path("proof/images"), Path("proof/expected.json"), Path("proof.json")
FOUND, RACE, SOAK = Path("proof-found.json"), Path("race.json"), Path("soak.json")
FORMAT = 1
SUFFIX = "-proof"  # of the names of bundles for a proof, which do not take the places of those without one


def main() -> None:
    parser = Parser(prog="install.sh prove", description=__doc__)
    parser.add_argument("--beside", type=Path, metavar="ENGINE", help="race it with the engine in this folder")
    parser.add_argument(
        "--soak", type=float, default=0, metavar="SECONDS", help="run it for so long (default: 0, not at all)"
    )
    arguments = parser.parse_args()
    if arguments.soak < 0:
        parser.error(f"--soak {arguments.soak:g}: expected seconds, 0 or more")
    check_packages()
    if not sys.stderr.isatty():
        os.environ[LINES] = "lines"
    with explain_os_error(Path.cwd()):
        write_json(PROOF, prove(read_json(BUNDLE, REMEDY), arguments.beside, arguments.soak))
    print(lasting_folder(Path.cwd()) / PROOF)


def prove(bundle: Dict[str, Any], beside: Optional[Path], seconds: float) -> Dict[str, Any]:
    """Runs the steps and returns the content of proof.json, where a step that failed, or was not asked for, is None.

    Raises UserError if no engine is installed here.
    """
    manifest = parse_manifest(ENGINE)
    backend, _ = BACKENDS[manifest["backend"]["name"]]
    steps: Dict[str, Callable[[], Dict[str, Any]]] = {"agreement": partial(agree, bundle, backend)}
    if beside is not None:
        steps["race"] = partial(race, beside, backend)
    if seconds:
        steps["soak"] = partial(run_soak, seconds, backend)
    problems: List[str] = []
    proof: Dict[str, Any] = {"format": FORMAT, "name": bundle["name"], "problems": problems}
    for name in ("agreement", "race", "soak"):
        proof[name] = None
        if name in steps:
            try:
                proof[name] = steps[name]()
            except UserError as error:
                problems.append(f"{name}: {error}")
                log.warning(f"prove: {problems[-1]}")
    return proof


def agree(bundle: Dict[str, Any], backend: str) -> Dict[str, Any]:
    """Runs all images, unless that is done; returns the figures of their agreement with the expected results.

    `disagreement` there says why they are too far apart. Random weights have almost equal scores everywhere, so that
    their order is a matter of chance: theirs is always empty.
    """
    from effedge.engines.proof.agreement import agreement, disagreement  # needs NumPy

    if not EXPECTED.exists():
        raise UserError(f"{EXPECTED} is missing, as in a bundle that was not packed for a proof: use effedge prove")
    threshold = [] if bundle["threshold"] is None else ["--threshold", str(bundle["threshold"])]
    images = {path.name: path for path in sorted(IMAGES.iterdir())}
    predicted = json_stage(
        "agreement",
        FOUND,
        inputs={"manifest": ENGINE / MANIFEST, "expected": EXPECTED, **images},
        options={"threshold": bundle["threshold"]},
        code=["effedge.deploy.predict", backend],
        make=lambda path: call("predict", str(ENGINE), str(IMAGES), "--quiet", "--json", str(path), *threshold),
    )
    figures: Dict[str, Any] = dict(agreement(read_json(EXPECTED, REMEDY), predicted))
    figures["disagreement"] = "" if bundle["weights"] == "random" else disagreement(figures, bundle["precision"])
    log.info(f"prove: agreement with {bundle['reference']}: {figures}")
    return figures


def race(beside: Path, backend: str) -> Dict[str, Any]:
    """Runs the engine and the one in `beside` in turns, unless that is done; returns the ratio of their latencies."""

    def measure(path: Path) -> None:
        from effedge.deploy.timing.interleaved import compare_engines

        write_json(path, compare_engines(ENGINE, beside)._asdict())

    parse_manifest(beside)
    figures: Dict[str, Any] = json_stage(
        "race",
        RACE,
        inputs={"manifest": ENGINE / MANIFEST, "beside": beside / MANIFEST},
        options={},
        code=["effedge.deploy.timing.interleaved", backend],
        make=measure,
    )
    log.info(f"prove: {figures['ratio']:.3f} times the latency of {beside} ({figures['low']:.3f} to "
             f"{figures['high']:.3f} with 95% confidence)")  # fmt: skip
    return figures


def run_soak(seconds: float, backend: str) -> Dict[str, Any]:
    """Runs the engine for so long, unless that is done; returns the report of effedge.deploy.timing.soak."""

    def measure(path: Path) -> None:
        from effedge.deploy.image.files import find_images
        from effedge.deploy.timing.soak import soak

        write_json(path, soak(str(ENGINE), find_images(str(IMAGES)), seconds))

    report: Dict[str, Any] = json_stage(
        "soak",
        SOAK,
        inputs={"manifest": ENGINE / MANIFEST},
        options={"seconds": seconds},
        code=["effedge.deploy.timing.soak", backend],
        make=measure,
    )
    log.info(f"prove: soak of {report['seconds']:.0f} s: p50 {report['p50']:.2f} ms, p99 {report['p99']:.2f} ms, "
             f"at its end {report['drift']:.3f} times as long as at its start")  # fmt: skip
    return report


if __name__ == "__main__":
    run(main)
