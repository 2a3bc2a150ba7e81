"""A board behind the OpenSSH client: commands run there, and its refusals in one line each.

Keys only: no password is asked for, as it would be anew for every command. Options of the user's own go behind ours:
SSH_OPTIONS="-p 2222 -i key", or their ~/.ssh/config.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

from effedge.deploy.common.cli import UserError

LOST = 255  # ssh's own exit status: no connection, or a connection that broke
# A silent connection counts as broken after half a minute.
OPTIONS = (
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
)  # fmt: skip
# What ssh says -> what to do.
REMEDIES = {
    "Could not resolve hostname": "check the name, or give the address",
    "Permission denied": "`ssh-copy-id` lets your key in there (passwords are not asked for)",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "is it another board now? `ssh-keygen -R` forgets the old one",
    "Host key verification failed": "`ssh` there once by hand and look at its key",
    "Connection refused": "see whether sshd runs there, and on which port",
    "timed out": "see whether it is switched on, and reachable from here",
    "No route to host": "see whether it is switched on, and reachable from here",
    "Bad port": "correct SSH_OPTIONS",
}


class Lost(UserError):
    """There is no connection, or no longer one."""


class Board:
    """`host` is user@name, as ssh takes it; `options`, more of ssh's own."""

    def __init__(self, host: str, options: str = "") -> None:
        if not host or host.startswith("-"):
            raise UserError(f"HOST '{host}' is no host: expected user@board")
        self.host = host
        try:
            self.command = ["ssh", *OPTIONS, *shlex.split(options), host]
        except ValueError as error:
            raise UserError(f"SSH_OPTIONS '{options}' cannot be read: {error}") from error

    def run(self, script: str) -> bytes:
        """The script's output, by the board's sh. Raises Lost, and UserError if it fails, with what it said."""
        with self.open(script, stdin=subprocess.DEVNULL) as process:
            out, err = process.communicate()
        self.check(process.returncode, err)
        return out

    @contextlib.contextmanager
    def open(self, script: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        """The script running there, killed if the block is left early."""
        command = [*self.command, f"sh -c {shlex.quote(script)}"]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, **{"stderr": subprocess.PIPE, **streams})
        except FileNotFoundError as error:
            raise UserError("there is no `ssh` here: install OpenSSH's client") from error
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def check(self, status: int, said: bytes) -> None:
        """Raise what an exit status and stderr mean; nothing for 0."""
        if status == 0:
            return
        lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        if status == LOST:
            for fragment, remedy in REMEDIES.items():
                for line in lines:
                    if fragment in line:
                        raise Lost(f"cannot reach '{self.host}' ({line.strip('@ ')}): {remedy}")
            why = f" ({lines[-1]})" if lines else ""
            raise Lost(f"the connection to '{self.host}' broke{why}: run the same command to go on")
        full = next((line for line in lines if "No space left" in line), None)  # not always the last that `tar` says
        if full:
            raise UserError(f"the disk of '{self.host}' is full ({full}): make room there, then run the same command")
        raise UserError(f"on '{self.host}': {lines[-1] if lines else f'exit status {status}, without a word'}")
