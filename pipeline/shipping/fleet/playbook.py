"""Runs the playbook of a roll-out by ansible-runner, and makes rows of Ansible's events.

Ansible's own files are in a temporary folder of the host, $TMPDIR/effedge-fleet-..., which is removed at the end; on
the boards there are none.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import effedge
from effedge.deploy.common.cli import UserError, handled_signals
from effedge.deploy.common.messages import log
from effedge.pipeline.shipping.fleet.board import Row

HERE = Path(__file__).absolute().parent
PLAYBOOK = HERE / "ansible_collections/effedge/fleet/playbooks/roll_out.yml"
LINE = "| "  # begins a line that the action shows (plugins/action/bundle.py)
FAILED, UNREACHABLE, TIMED_OUT = "failed", "unreachable", "timed out"
INTERRUPTED, NOT_STARTED = "interrupted", "not started"
COLLECTIONS = "~/.ansible/collections:/usr/share/ansible/collections"  # Ansible's default
POLL_SECONDS = 1
TOO_SLOW = "not done after {seconds} s; an installation that has begun runs on there, and the same command watches it"


def environment(scratch: Path) -> dict[str, str]:
    """Returns the environment of Ansible's programs: this Python's own, with all files in `scratch`.

    Ansible asks for UTF-8; ssh.py knows OpenSSH's messages in English.
    """
    programs, package = Path(sys.executable).parent, Path(effedge.__file__).absolute().parents[1]
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_HOME": str(scratch / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(scratch / "ansible/tmp"),
        "ANSIBLE_COLLECTIONS_PATH": f"{HERE}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', COLLECTIONS)}",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_DEPRECATION_WARNINGS": "0",
        "ANSIBLE_DISPLAY_TRACEBACK": "never",
    }


@dataclass
class Events:
    """Ansible's events so far: the rows by board, the boards that have begun, Ansible's own errors, and its process."""

    rows: dict[str, Row] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    pid: int | None = None
    interrupted: bool = False

    def take(self, event: dict[str, Any]) -> bool:
        """Takes an event of ansible-runner. Returns False: it need not be kept."""
        data = event.get("event_data", {})
        self.pid = event.get("pid", self.pid)
        for line in event.get("stdout", "").splitlines():
            if line.startswith(LINE):
                log.info(line[len(LINE) :])
            elif line.startswith("[ERROR]: ") and "host" not in data:
                self.errors.append(line.removeprefix("[ERROR]: "))
        name = data.get("host")
        if event["event"] == "runner_on_start":
            self.begun.append(name)
        elif event["event"] in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            self.rows[name] = row_of(name, data["res"], event["event"])
            log.info(f"{name}: {self.rows[name]['state']}")
        return False

    def row(self, name: str) -> Row:
        """Returns a board's row; one without a result has its state alone."""
        waiting = INTERRUPTED if self.interrupted and name in self.begun else NOT_STARTED
        return self.rows.get(name, Row(board=name, state=waiting))


def row_of(name: str, result: dict[str, Any], event: str) -> Row:
    """Makes a board's row of Ansible's result for it."""
    row = Row(board=name)
    row.update(result.get("board", {}))
    if "timedout" in result:
        row.update(Row(state=TIMED_OUT, reason=TOO_SLOW.format(seconds=result["timedout"]["period"])))
    elif event != "runner_on_ok":
        row.setdefault("reason", " ".join(str(result.get("msg", "no reason is given")).split()))
        row["state"] = UNREACHABLE if event == "runner_on_unreachable" else FAILED
    return row


def run_playbook(inventory: Path, options: dict[str, Any], limit: str | None, words: str, scratch: Path) -> Events:
    """Runs the playbook; returns its events.

    Args:
        options: the variable effedge_fleet of the playbook.
        words: more options of ansible-playbook.
        scratch: a temporary folder.

    Raises UserError if Ansible ends without a board's result.
    """
    import ansible_runner

    events = Events()
    runner = scratch / "runner"
    runner.mkdir()

    def stop(_number: int) -> None:
        """Ends Ansible, which ends the connections; what runs on a board runs on."""
        if events.pid is not None:
            os.kill(events.pid, signal.SIGINT)

    with handled_signals(stop) as received:
        ansible_runner.run(
            private_data_dir=str(runner),
            project_dir=os.getcwd(),
            playbook=str(PLAYBOOK),
            inventory=str(inventory.absolute()),
            limit=limit,
            extravars={"effedge_fleet": options},
            cmdline=words,
            envvars=environment(scratch),
            event_handler=events.take,
            cancel_callback=lambda: bool(received) and events.pid is None,
            settings={"pexpect_timeout": POLL_SECONDS},
            quiet=True,
        )
    if not received and not events.rows:
        raise UserError(f"Ansible could not begin: {' '.join(events.errors) or 'it gave no reason'}")
    events.interrupted = bool(received)
    return events
