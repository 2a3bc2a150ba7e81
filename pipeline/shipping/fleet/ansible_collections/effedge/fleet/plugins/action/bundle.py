"""Ansible's action effedge.fleet.bundle: rolls a bundle out to a board, or goes back to the bundle before it.

    - hosts: boards
      gather_facts: false
      tasks:
        - effedge.fleet.bundle:
            archive: build/d0-digits/d0-digits-int8-jetson-orin.tar.gz
            python: python3        # the other arguments, and `state: rolled_back`, may be left out

The action runs on the host and calls ssh by itself, as `effedge deploy` does: on the board it needs no Python that
Ansible's modules would need, and leaves no temporary folder of Ansible's. The address, user, port, key and further
options of ssh are those that Ansible's own ssh would take.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.pipeline.shipping.fleet import board as steps
from effedge.pipeline.shipping.ssh import Board, ConnectionLost

ARGUMENTS = ("archive", "state", "python", "key", "power_mode", "tolerance", "baseline")
STATES = ("installed", "rolled_back")
LINE = "| "  # begins a line of a board's own (playbook.py)


class LineHandler(logging.Handler):
    """Shows effedge's messages, each with the board's name, through Ansible: a worker's own output goes nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            Display().display(f"{LINE}{self.name}: {line}")


class ActionModule(ActionBase):
    """The action; Ansible finds it by this name."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Runs the task on a board; returns Ansible's result, with the row of the board (board.py) as `board`."""
        super().run(tmp, task_vars)
        arguments = {name: value for name, value in self._task.args.items() if value not in (None, "")}
        unknown = sorted(set(arguments) - set(ARGUMENTS))
        state = arguments.pop("state", STATES[0])
        if unknown or state not in STATES or "archive" not in arguments:
            raise AnsibleActionFail(
                f"effedge.fleet.bundle takes {', '.join(ARGUMENTS)}; archive is needed, state is {' or '.join(STATES)}"
            )
        name = str(task_vars["inventory_hostname"])
        handler = LineHandler(name)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        started, row = time.monotonic(), steps.Row()
        result: dict[str, Any] = {"board": row}
        try:
            board = self.board(name)
            row["host"] = board.host
            run_step(board, read_task(arguments), state, row, self._task.check_mode)
            result["changed"] = row["changed"]
        except UserError as error:
            row["reason"] = result["msg"] = str(error)
            result["unreachable" if isinstance(error, ConnectionLost) else "failed"] = True
        finally:
            log.removeHandler(handler)
        row["seconds"] = round(time.monotonic() - started, 1)
        return result

    def board(self, name: str) -> Board:
        """Makes the board of the connection's options. Raises UserError if it is no connection by ssh and a key."""
        connection = self._connection
        if connection.transport != "ssh":
            raise UserError(f"ansible_connection is '{connection.transport}': boards are reached by ssh alone")
        if connection.get_option("password"):
            raise UserError("ansible_password is set: passwords are not asked for, `ssh-copy-id` lets a key in")
        user, host = connection.get_option("remote_user"), connection.get_option("host") or name
        options = []
        if connection.get_option("port"):
            options += ["-p", str(connection.get_option("port"))]
        if connection.get_option("private_key_file"):
            options += ["-i", os.path.expanduser(connection.get_option("private_key_file"))]
        if not connection.get_option("host_key_checking"):
            options += ["-o", "StrictHostKeyChecking=no"]
        more = [connection.get_option(name) or "" for name in ("ssh_common_args", "ssh_extra_args")]
        return Board(f"{user}@{host}" if user else host, " ".join([shlex.join(options), *more]), name)


def run_step(board: Board, task: steps.Task, state: str, row: steps.Row, check_mode: bool) -> None:
    """Runs the step that the arguments ask for; its results go into the row."""
    if state == "rolled_back":
        steps.roll_back(board, task, row, check_mode)
    elif check_mode:
        steps.check(board, task, row)
    else:
        steps.roll_out(board, task, row)


def read_task(arguments: dict[str, Any]) -> steps.Task:
    """Reads the arguments into a task. Raises UserError for a number that is none."""
    python = str(arguments.get("python", "python3"))
    try:
        return steps.Task(
            archive=Path(arguments["archive"]).expanduser(),
            # Ansible's "auto", "auto_silent", ... have Ansible look for one
            python="python3" if python.startswith("auto") else python,
            key=Path(arguments["key"]) if "key" in arguments else None,
            power_mode=str(arguments["power_mode"]) if "power_mode" in arguments else None,
            tolerance=float(arguments["tolerance"]) if "tolerance" in arguments else None,
            baseline=arguments.get("baseline"),
        )
    except ValueError as error:
        raise UserError(f"an argument of effedge.fleet.bundle is no number: {error}") from error
