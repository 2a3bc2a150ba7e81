"""Makes what simulated boards are mounted from, once: Pythons with JetPack's NumPy and Pillow, and an aarch64 Debian.

Both are kept in $EFFEDGE_BOARDS, by default ~/.cache/effedge-boards. A Python is a virtual environment of this
machine's interpreter of that version (on PATH, or pyenv's). The Debian is made by debootstrap; its programs run by
qemu-user, which the kernel calls through binfmt_misc. What is missing is a `Missing` with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BINFMT = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
DEBIAN = "bookworm"
PACKAGES = "python3,python3-numpy,python3-pil"
MOUNT_BINFMT = (
    "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && { test -e /proc/sys/fs/binfmt_misc/qemu-aarch64 || "
    f"cat {BINFMT} > /proc/sys/fs/binfmt_misc/register; }}"
)


class Missing(Exception):
    """What this machine lacks for a simulated board."""


def cache() -> Path:
    folder = Path(os.environ.get("EFFEDGE_BOARDS") or Path.home() / ".cache" / "effedge-boards")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_machine() -> None:
    """Raises Missing unless this user may mount file systems and has the tools for that."""
    if os.geteuid() != 0:
        raise Missing("simulated boards are mounted, which needs root")
    for tool in ("unshare", "nsenter", "mount", "chroot"):
        if shutil.which(tool) is None:
            raise Missing(f"there is no {tool} here: apt-get install util-linux mount coreutils")
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    if done.returncode:
        raise Missing(f"root may not mount here: {done.stderr.strip()}")


def python(version: str, packages: tuple[str, ...]) -> Path:
    """Returns a virtual environment of Python `version` ("3.8") with `packages` ("numpy==1.17.4")."""
    folder = cache() / "-".join(["python", version, *(name.replace("==", "-") for name in packages)])
    if not folder.exists():
        interpreter = find_interpreter(version)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            made = Path(scratch) / "python"
            call([str(interpreter), "-m", "venv", "--symlinks", str(made)])
            install = [str(made / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            call([*install, "--only-binary", ":all:", *packages])
            made.rename(folder)
    return folder


def find_interpreter(version: str) -> Path:
    """Finds Python `version` on PATH or among pyenv's. Raises Missing."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = sorted(root.glob(f"versions/{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    candidates = [*found, *([Path(on_path)] if on_path else [])]
    for path in candidates:
        if subprocess.run([str(path), "-c", "import ensurepip, ctypes"], capture_output=True).returncode == 0:
            return path.resolve()
    raise Missing(f"there is no Python {version} here, on PATH or of pyenv")


def debian_arm64() -> Path:
    """Returns the root of an aarch64 Debian with Python, NumPy and Pillow; making it takes some minutes."""
    folder = cache() / f"{DEBIAN}-arm64"
    if folder.exists():
        return folder
    for tool, package in (("debootstrap", "debootstrap"), ("qemu-aarch64-static", "qemu-user-static")):
        if shutil.which(tool) is None:
            raise Missing(f"there is no {tool} here: apt-get install {package}")
    made = Path(tempfile.mkdtemp(dir=cache()))
    try:
        call(
            [
                "debootstrap",
                "--arch=arm64",
                "--foreign",
                "--variant=minbase",
                f"--include={PACKAGES}",
                DEBIAN,
                str(made),
            ]
        )
        second = f"{MOUNT_BINFMT} && exec chroot {made} /debootstrap/debootstrap --second-stage"
        call(["unshare", "--mount", "sh", "-c", second])
        shutil.rmtree(made / "var/cache/apt/archives", ignore_errors=True)
        made.chmod(0o755)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def compiler(arm64: bool) -> str:
    """Returns the C++ compiler for a board's libcuda. Raises Missing."""
    name = "aarch64-linux-gnu-g++" if arm64 else "g++"
    path = shutil.which(name)
    if path is None:
        raise Missing(f"there is no {name} here: apt-get install {'g++-aarch64-linux-gnu' if arm64 else 'g++'}")
    return path


def call(command: list[str]) -> None:
    """Runs a command. Raises Missing, with its last line, if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
        raise Missing(f"{' '.join(command[:3])} fails: {last}")
