"""Boards on the loopback: each is an sshd on a port of 127.0.0.1 whose sessions have a folder as their home.

The bundles' install.sh is that of small_bundle.py, with faults by files in the board's home: `refuse` fails it, `wait`
makes it wait.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.pipeline.shipping.small_bundle import NAME

CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {key}.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
SetEnv BOARD={home}
ForceCommand cd "$BOARD" && HOME=$BOARD && export HOME && exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class LoopbackBoard:
    """A board: its name in the inventory, its home folder and its port."""

    name: str
    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def serves(self) -> str:
        """The folder that the link of the bundle leads to; empty without one."""
        link = self.home / "effedge" / NAME
        return os.readlink(link) if link.is_symlink() else ""

    @property
    def runs(self) -> int:
        """How often install.sh began in the folder that serves."""
        return (self.home / "effedge" / NAME / "runs").read_text().count("begun")

    def latency(self, name: str) -> str:
        return (self.home / "effedge" / name / "latency.json").read_text()


class Loopback:
    """A set of such boards, with one key for all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key, self.boards = folder, folder / "key", list[LoopbackBoard]()
        self.sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if self.sshd is None or shutil.which("ssh") is None:
            pytest.skip("no sshd here (openssh-server)")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        make_key(self.key)

    def start(self, name: str, is_reachable: bool = True) -> LoopbackBoard:
        """Starts a board's sshd; an unreachable board has a port at which nobody listens."""
        folder = self.folder / name
        (folder / "home").mkdir(parents=True)
        board = LoopbackBoard(name, folder / "home", free_port())
        self.boards.append(board)
        if is_reachable:
            make_key(folder / "host_key")
            config = folder / "sshd_config"
            config.write_text(CONFIG.format(port=board.port, folder=folder, key=self.key, home=board.home))
            assert self.sshd is not None
            board.process = subprocess.Popen([self.sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
            wait_for_port(board.port)
        return board

    def inventory(self, **variables: dict[str, object]) -> Path:
        """Writes the inventory; returns its path. `variables`: more ones of a board, by its name."""
        options = f"-o UserKnownHostsFile={self.folder}/known_hosts -F none"
        content = {
            "all": {
                "vars": {
                    "ansible_host": "127.0.0.1",
                    "ansible_user": getpass.getuser(),
                    "ansible_ssh_private_key_file": str(self.key),
                    "ansible_ssh_common_args": options,
                    "ansible_host_key_checking": False,
                    "effedge_python": sys.executable,
                },
                "hosts": {
                    board.name: {"ansible_port": board.port, **variables.get(board.name, {})} for board in self.boards
                },
            }
        }
        path = self.folder / "inventory.yml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def close(self) -> None:
        for board in self.boards:
            (board.home / "wait").unlink(missing_ok=True)
            if board.process is not None:
                board.process.terminate()
                board.process.wait()


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"no sshd listens at port {port}")
