"""Rolls a bundle out over a fleet of boards with Ansible, batch by batch, or goes back to the bundle before it.

    effedge fleet inventory.yml --bundle build/d0-digits/d0-digits-int8-jetson-orin.tar.gz
    effedge fleet inventory.yml --bundle ... --check
    effedge fleet inventory.yml --bundle ... --rollback

On each board it does what `effedge deploy` does: the new engine serves once it has passed its self-test there, and
until then, and where it fails, the earlier one. After a batch with more failures than --max-fail no other begins. The
same command again goes on: a board that is up to date is only looked at. Exit status 1: a board failed, was not
reached, or was not begun.

Variables of the inventory: ansible_host, ansible_port, ansible_user, ansible_ssh_private_key_file,
ansible_ssh_common_args as everywhere in Ansible; effedge_bundle (in place of --bundle), effedge_python,
effedge_power_mode (the mode that the board must have), effedge_timeout, effedge_tolerance.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.files import check_output_path, sha256, write_json
from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import json_file
from effedge.pipeline.shipping.push import KEY_HELP, SUFFIX, names_there
from effedge.pipeline.shipping.trust import as_pem, public_of, sign_or_check

FAILURE = 1  # the exit status
TIMEOUT_MINUTES = 60.0
FORKS = 10
TEMPLATE = "{{"  # in a path that Ansible fills in
SERIAL, MAX_FAIL = "1,25%", 20  # of a roll-out


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("inventory", type=Path, metavar="INVENTORY", help="an Ansible inventory, such as a YAML file")
    bundle = "the bundle, for boards without an effedge_bundle in the inventory"
    parser.add_argument("--bundle", type=Path, metavar="FILE.tar.gz", help=bundle)
    parser.add_argument("--check", action="store_true", help="tell what would be done, and change nothing")
    parser.add_argument("--rollback", action="store_true", help="go back to the bundle that served before this one")
    parser.add_argument("--limit", metavar="PATTERN", help="some of the boards: names, groups, Ansible's patterns")
    serial = f"boards or per cent a batch; the last holds for the rest (default: {SERIAL.replace('%', '%%')})"
    parser.add_argument("--serial", metavar="N,N%,...", type=read_serial, help=serial)
    fail = f"stop after a batch of which more failed; unreachable boards do not count (default: {MAX_FAIL})"
    parser.add_argument("--max-fail", type=float, metavar="PERCENT", help=fail)
    parser.add_argument("--forks", type=int, default=FORKS, metavar="N", help="boards at once (default: %(default)s)")
    timeout = "of a board (default: %(default)s); an installation that takes longer runs on there"
    parser.add_argument("--timeout", type=float, default=TIMEOUT_MINUTES, metavar="MINUTES", help=timeout)
    baseline = "the JSON of an earlier roll-out (default: each board's bundle before this one)"
    parser.add_argument("--baseline", type=Path, metavar="FILE.json", help=baseline)
    tolerance = "take back what is slower than the baseline by more, as a failure (default: the ratio is shown alone)"
    parser.add_argument("--tolerance", type=float, metavar="PERCENT", help=tolerance)
    parser.add_argument("--key", type=Path, metavar="FILE", help=KEY_HELP)
    parser.add_argument(
        "--json", type=json_file, metavar="FILE", help="the result (default: build/fleet-INVENTORY.json)"
    )
    parser.add_quiet()
    arguments = parser.parse_args()
    is_roll_out = not (arguments.check or arguments.rollback)  # else all boards at once
    arguments.serial = arguments.serial or read_serial(SERIAL if is_roll_out else "100%")
    if arguments.max_fail is None:
        arguments.max_fail = MAX_FAIL if is_roll_out else 100
    if not 0 <= arguments.max_fail <= 100:
        parser.error(f"--max-fail {arguments.max_fail:g}: expected 0 to 100 per cent")
    if arguments.forks < 1:
        parser.error(f"--forks {arguments.forks}: expected 1 or more")
    if not 0 < arguments.timeout <= 7 * 24 * 60:
        parser.error(f"--timeout {arguments.timeout:g}: expected minutes, up to a week")
    if arguments.tolerance is not None and not 0 <= arguments.tolerance <= 1000:
        parser.error(f"--tolerance {arguments.tolerance:g}: expected per cent, 0 or more")
    return arguments


def read_serial(text: str) -> list[str]:
    """Reads the sizes of batches: numbers of boards and per cent, such as "1,5,25%". Raises ArgumentTypeError."""
    sizes = text.replace(" ", "").split(",")
    if not all(re.fullmatch(r"[1-9]\d*|[1-9]\d?%|100%", size) for size in sizes):
        raise argparse.ArgumentTypeError(f"'{text}': expected numbers of boards or per cent, such as 1,5,25%")
    return sizes


def main() -> None:
    arguments = parse_arguments()
    for package in ("ansible", "ansible_runner"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"effedge fleet needs the package {package}: pip install 'effedge[fleet]'")
    from effedge.pipeline.shipping.fleet.report import GOOD, summary, table

    path = arguments.json or Path("build") / f"fleet-{arguments.inventory.stem}.json"
    check_output_path(path)
    with locked(path), tempfile.TemporaryDirectory(prefix="effedge-fleet-") as scratch:
        result = run(arguments, Path(scratch))
        write_json(path, result)
    sys.stdout.flush()
    print(table(result))
    print(f"{len(result['boards'])} boards: {summary(result)}")
    print(path)
    if result["interrupted"]:
        raise KeyboardInterrupt
    if any(row["state"] not in GOOD for row in result["boards"]):
        sys.exit(FAILURE)


def run(arguments: argparse.Namespace, scratch: Path) -> Any:
    """Runs the roll-out; returns its result (report.py). Raises UserError before any board is reached, for what is
    wrong on the host."""
    from effedge.pipeline.shipping.fleet import playbook, report
    from effedge.pipeline.shipping.fleet.inventory import read_inventory

    baselines = {} if arguments.baseline is None else report.read_baselines(arguments.baseline)
    boards = read_inventory(arguments.inventory, arguments.limit, playbook.environment(scratch))
    bundles = bundles_of(boards, arguments.bundle)
    options: dict[str, Any] = {
        "bundle": None if arguments.bundle is None else str(arguments.bundle.absolute()),
        "state": "rolled_back" if arguments.rollback else "installed",
        "serial": arguments.serial,
        "max_fail": arguments.max_fail,
        "timeout": max(1, round(60 * arguments.timeout)),
        "tolerance": arguments.tolerance,
        "baselines": baselines,
    }
    if arguments.key is not None and not arguments.check and not arguments.rollback:
        options["key"] = str(sign_all(sorted(set(bundles.values())), arguments.key, scratch))
    action = ("roll back" if arguments.rollback else "roll out") + (", check" if arguments.check else "")
    log.info(f"fleet: {action}, {len(boards)} boards of '{arguments.inventory}'")
    started, clock = time.strftime("%Y-%m-%d %H:%M:%S"), time.monotonic()
    words = f"--forks {arguments.forks}" + (" --check" if arguments.check else "")
    events = playbook.run_playbook(arguments.inventory, options, arguments.limit, words, scratch)
    rows = [events.row(name) for name in boards]
    for row in rows:
        row["bundle"] = bundles[row["board"]].name
    return report.Result(
        format=report.FORMAT,
        inventory=str(arguments.inventory),
        action=action,
        options={"limit": arguments.limit, "serial": arguments.serial, "max_fail": arguments.max_fail},
        bundles={str(path): sha256(path) for path in set(bundles.values()) if path.is_file()},
        started=started,
        seconds=round(time.monotonic() - clock, 1),
        interrupted=events.interrupted,
        boards=rows,
        models=report.by_model(rows),
    )


def bundles_of(boards: dict[str, dict[str, Any]], default: Path | None) -> dict[str, Path]:
    """Returns each board's bundle. Raises UserError for a board without one, and a bundle that is none."""
    bundles = {}
    for name, variables in boards.items():
        bundle = variables.get("effedge_bundle", default)
        if bundle is None:
            raise UserError(f"'{name}' has no bundle: give --bundle, or set effedge_bundle in the inventory")
        bundles[name] = Path(bundle).expanduser()
    for path in sorted(set(bundles.values())):
        if TEMPLATE not in str(path):
            if not path.name.endswith(SUFFIX) or not path.is_file():
                raise UserError(f"no bundle at '{path}': expected the {SUFFIX} that `make bundle` writes")
            names_there(path, "python3")
    return bundles


def sign_all(bundles: list[Path], key: Path, scratch: Path) -> Path:
    """Signs the bundles, or checks their signatures, once for all boards; returns the file of the public key.

    Bundles whose paths Ansible fills in must be signed already; it is checked when they are copied."""
    public = scratch / "key.pub"
    keys = [sign_or_check(bundle, key) for bundle in bundles if TEMPLATE not in str(bundle)]
    public.write_text(as_pem(keys[0] if keys else public_of(key)))
    return public
