"""Runs commands on a board through the OpenSSH client, and explains failures in one line.

Only keys are accepted: a password would be asked for anew with every command. The user's own options follow those of
this module: SSH_OPTIONS="-p 2222 -i key", or their ~/.ssh/config.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

from effedge.deploy.common.cli import UserError

BEGIN = "effedge: the script's output begins"  # what a shell there prints at its start comes before this line
LOST = 255  # ssh's own exit status: no connection, or a connection that broke
# A silent connection counts as broken after half a minute.
OPTIONS = (
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
)  # fmt: skip
# A part of ssh's message -> what to do.
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


def quoted(path: str) -> str:
    """A path for the board's shell, in which ~/ is the home folder there.

    >>> quoted("python3"), quoted("~/my env/bin/python")
    ('python3', '"$HOME"/\'my env/bin/python\'')
    """
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


class ConnectionLost(UserError):
    """The error of a connection that cannot be made, or that broke."""


class Board:
    """A board that ssh reaches: `host` is user@name, as ssh takes it; `options` are more options of ssh; `name` is the
    board's in a fleet, where several may have the same address."""

    def __init__(self, host: str, options: str = "", name: str = "") -> None:
        if not host or host.startswith("-"):
            raise UserError(f"HOST '{host}' is no host: expected user@board")
        self.host, self.name = host, name
        try:
            self.command = ["ssh", *OPTIONS, *shlex.split(options), host]
        except ValueError as error:
            raise UserError(f"SSH_OPTIONS '{options}' cannot be read: {error}") from error

    @property
    def word(self) -> str:
        """The board's name, or the host without its user, as a part of a file's name."""
        if self.name:
            return re.sub(r"[^\w.-]+", "_", self.name)
        return re.sub(r"[^A-Za-z0-9.]+", "_", self.host.rpartition("@")[2])

    def run(self, script: str, data: bytes = b"") -> bytes:
        """Runs a script in the board's sh, with `data` on its standard input; returns its output.

        Raises:
            ConnectionLost: without a connection.
            UserError: a script that fails, with its last message.
        """
        with self.open(f"echo {shlex.quote(BEGIN)}\n{script}", stdin=subprocess.PIPE) as process:
            output, messages = process.communicate(data)
        self.check(process.returncode, messages)
        return output.partition(f"{BEGIN}\n".encode())[2]

    @contextlib.contextmanager
    def open(self, script: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Starts a script in the board's sh; it is killed if the block is left early."""
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

    def check(self, status: int, messages: bytes) -> None:
        """Raises the error for an exit status and the messages on stderr; status 0 is no error."""
        if status == 0:
            return
        lines = [line.strip() for line in messages.decode(errors="replace").splitlines() if line.strip()]
        if status == LOST:
            for fragment, remedy in REMEDIES.items():
                for line in lines:
                    if fragment in line:
                        raise ConnectionLost(f"cannot reach '{self.host}' ({line.strip('@ ')}): {remedy}")
            reason = f" ({lines[-1]})" if lines else ""
            raise ConnectionLost(f"the connection to '{self.host}' broke{reason}: run the same command to go on")
        full = next((line for line in lines if "No space left" in line), None)  # not always `tar`'s last message
        if full:
            raise UserError(f"the disk of '{self.host}' is full ({full}): make room there, then run the same command")
        raise UserError(f"on '{self.host}': {lines[-1] if lines else f'exit status {status}, without a word'}")
