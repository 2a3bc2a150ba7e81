"""A simulated board: a root of its own, in mount and process namespaces of its own, that a stand-in for ssh enters.

| part | what it is |
|---|---|
| root | an overlay over this machine's root (native), or over an aarch64 Debian that qemu-user runs |
| Python | with the NumPy and Pillow of the JetPack's Ubuntu; on the emulated board, Debian's |
| /etc/nv_tegra_release, nvpmodel, /sys | the files of tests/deploy/boards.py |
| module tensorrt | device/tensorrt, with the JetPack's version; its GPU is gpu.py |
| libcuda.so.1 | device/libcuda.cpp; a file that says where it is stands for ldconfig |
| pycuda | effedge's own libcuda.py by the name pycuda.driver, which has the same interface |
| nvcc | a script that writes "cubin sm_NN", which the libcuda takes for all kernels |

A process of the board is a process of this machine, but the first one of the board ends them all: `cut_power`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.deploy import boards
from tests.simulated_board import roots
from tests.simulated_board.gpu import SimulatedGpu

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOME = "/home/nvidia"
JETPACK = "opt/jetpack"  # what JetPack puts into several folders of /usr
LIBRARIES, MODULES = f"/{JETPACK}/lib", f"/{JETPACK}/python"
PATH = "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMPILE = ["-O2", "-std=c++14", "-ffp-contract=off", "-shared", "-fPIC", "-pthread", "-static-libstdc++",
           "-static-libgcc"]  # fmt: skip
NVCC = """#!/bin/sh
for word; do
    case "$last" in -o) out=$word;; esac
    case "$word" in -arch=*) architecture=${word#-arch=};; esac
    last=$word
done
echo "cubin $architecture" > "$out"
"""
START = """
mount --make-rprivate / && {binfmt}
mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {root} || exit 1
mount -t proc proc {root}/proc && mount -t tmpfs tmpfs {root}/sys && cp -r {sys}/. {root}/sys/ || exit 1
mount -t tmpfs tmpfs {root}/dev && mkdir -m 1777 {root}/dev/shm && for device in null zero full urandom; do
    : > {root}/dev/$device && mount --bind /dev/$device {root}/dev/$device || exit 1; done
mount -t tmpfs tmpfs {root}/tmp && mount -t tmpfs -o mode=755 tmpfs {root}/run && mkdir {root}/run/gpu || exit 1
mount --bind {gpu} {root}/run/gpu && mount --bind {local} {root}/usr/local || exit 1
{python}
{disk}
exec chroot {root} /bin/sh -c 'echo ready; read end'
"""
# The last word is the command. It breaks in the middle of the copy after $CUT bytes, and at the line of the
# installation's log that is $STOP. What runs on the board then runs on.
SSH = """#!/bin/sh
for command; do :; done
enter() {{
    exec nsenter --target {pid} --mount --pid --root --wd env -i {environment} sh -c "cd; $1"
}}
case "$command" in
    *"cat >>"*) if [ -n "$CUT" ]; then
        head -c "$CUT" | (enter "$command")
        echo "client_loop: send disconnect: Broken pipe" >&2; exit 255
    fi;;
    *nohup*) if [ -n "$STOP" ]; then
        seen=$(mktemp)
        (enter "$command") > "$seen" 2>&1 & watching=$!
        until grep -q "$STOP" "$seen"; do sleep 0.05; done
        kill $watching; cat "$seen"; rm "$seen"
        echo "Connection to board closed by remote host." >&2; exit 255
    fi;;
esac
enter "$command"
"""


@dataclass(frozen=True)
class Kind:
    """A board with its JetPack. `machine`: its files; `gpu`: name, compute capability and MiB; `distribution`: Python,
    and the packages of the JetPack's Ubuntu."""

    name: str
    tensorrt: str
    target: str
    release: str
    machine: dict[str, str | None]
    gpu: tuple[str, str, int]
    distribution: tuple[str, tuple[str, ...]]
    dla_cores: int = 2
    pycuda: bool = False
    nvcc: bool = True
    libcuda: bool = True
    arm64: bool = False


FOCAL = ("3.8", ("numpy==1.17.4", "pillow==7.0.0"))
JAMMY = ("3.10", ("numpy==1.21.5", "pillow==9.0.1"))
NOBLE = ("3.12", ("numpy==1.26.4", "pillow==10.2.0"))
JETPACK_51 = Kind(
    "jetpack-5.1", "8.5.2.2", "jetson-xavier", "R35 (release), REVISION: 4.1", boards.XAVIER, ("Xavier", "7.2", 6800),
    FOCAL, pycuda=True,
)  # fmt: skip
JETPACK_62 = Kind(
    "jetpack-6.2", "10.3.0", "jetson-orin", "R36 (release), REVISION: 4.3", boards.ORIN, ("Orin", "8.7", 7600), JAMMY
)
JETPACK_72 = Kind(
    "jetpack-7.2", "10.16.1.11", "jetson-thor", "R39 (release), REVISION: 2.0", boards.THOR, ("Thor", "11.0", 125000),
    NOBLE, dla_cores=0, nvcc=False,
)  # fmt: skip
JETPACK_62_ARM64 = replace(JETPACK_62, name="jetpack-6.2-aarch64", arm64=True)
KINDS = (JETPACK_51, JETPACK_62, JETPACK_72)


def set_version(modules: Path, version: str) -> None:
    """Sets the version of the module tensorrt in a folder of modules."""
    module = modules / "tensorrt/__init__.py"
    module.write_text(re.sub(r'(?m)^__version__ = ".*"', f'__version__ = "{version}"', module.read_text()))


class SimulatedBoard:
    """A board that runs. `gpu` is its GPU, in which a test can plant faults; `files` is its root, as seen from here."""

    def __init__(self, kind: Kind, folder: Path, disk_mib: int | None = None) -> None:
        """Makes the board in `folder` and starts it. `disk_mib`: the size of its disk at /home. Raises Missing."""
        roots.check_machine()
        self.kind, self.folder = kind, folder
        for name in ("upper", "work", "root", "sys", "gpu", "bin", "local/cuda/bin"):
            (folder / name).mkdir(parents=True)
        lower = roots.debian_arm64() if kind.arm64 else Path("/")
        self.write_files(folder / "upper", folder / "sys")
        self.gpu = SimulatedGpu(folder / "gpu", kind.gpu[1])
        python = "true" if kind.arm64 else f"mount --bind {roots.python(*kind.distribution)} {folder}/root/opt/python"
        disk = f"mount -t tmpfs -o size={disk_mib}m tmpfs {folder}/root{HOME}" if disk_mib else "true"
        self.start_script = START.format(
            binfmt=f"{roots.MOUNT_BINFMT} || exit 1" if kind.arm64 else "true",
            lower=lower, upper=folder / "upper", work=folder / "work", root=folder / "root", sys=folder / "sys",
            gpu=folder / "gpu", local=folder / "local", python=f"{python} || exit 1", disk=f"{disk} || exit 1",
        )  # fmt: skip
        self.start()

    def write_files(self, root: Path, sys: Path) -> None:
        """Writes the board's files over its root's, and those of the kernel into `sys`."""
        kind = self.kind
        for name in (HOME[1:], "opt/python", LIBRARIES[1:], MODULES[1:], "etc", "proc", "run",
                     "tmp", "dev", "sys"):  # fmt: skip
            (root / name).mkdir(parents=True, exist_ok=True)
        files = {name: content for name, content in kind.machine.items() if not name.startswith("sys/")}
        boards.write_board(root, files)
        kernel = {name[4:]: content for name, content in kind.machine.items() if name.startswith("sys/")}
        boards.write_board(sys, kernel)
        (root / "etc/nv_tegra_release").write_text(f"# {kind.release}, GCID: 1, BOARD: generic, EABI: aarch64\n")
        (root / "etc/simulated_board.json").write_text(json.dumps({"dla_cores": kind.dla_cores}))
        name, capability, memory = kind.gpu
        major, minor = capability.split(".")
        (root / "etc/simulated_gpu").write_text(f"{name}\ncapability {major} {minor}\nmemory_mib {memory}\n")
        modules = root / MODULES[1:]
        shutil.copytree(HERE / "device/tensorrt", modules / "tensorrt", ignore=shutil.ignore_patterns("__pycache__"))
        set_version(modules, kind.tensorrt)
        shutil.copy(ROOT / "tests/engines/tensorrt_versions.py", modules)
        if kind.pycuda:
            (modules / "pycuda").mkdir()
            (modules / "pycuda/__init__.py").write_text("")
            shutil.copy(ROOT / "deploy/runtime/tensorrt/libcuda.py", modules / "pycuda/driver.py")
        if kind.libcuda:
            compiled = root / LIBRARIES[1:] / "libcuda.so.1"
            folders = [f"-I{ROOT / 'deploy/native/cuda'}", f"-I{ROOT / 'tests/deploy'}"]
            roots.call(
                [roots.compiler(kind.arm64), *COMPILE, *folders, "-o", str(compiled), str(HERE / "device/libcuda.cpp")]
            )
        if kind.nvcc:
            nvcc = self.folder / "local/cuda/bin/nvcc"
            nvcc.write_text(NVCC)
            nvcc.chmod(0o755)

    def start(self) -> None:
        """Starts the board; its disk has what it had when it last ran."""
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", self.start_script]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        if self.process.stdout.readline() != "ready\n":
            self.process.wait()
            raise roots.Missing(f"the board does not start: {self.process.stderr.read().strip()}")
        pid = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])
        self.files = Path(f"/proc/{pid}/root")
        self.home = self.files / HOME[1:]
        environment = {
            "HOME": HOME,
            "PATH": PATH,
            "LD_LIBRARY_PATH": LIBRARIES,
            "PYTHONPATH": MODULES,
            "LANG": "C.UTF-8",
        }
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        ssh = self.folder / "bin/ssh"
        ssh.write_text(SSH.format(pid=pid, environment=words))
        ssh.chmod(0o755)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the board's shell, in the user's home."""
        return subprocess.run([str(self.folder / "bin/ssh"), "board", command], capture_output=True, text=True)

    def kill(self, pattern: str) -> None:
        """Kills (-9) the board's processes whose command line has the pattern, as its out-of-memory killer does."""
        for line in self.run(
            "for p in /proc/[0-9]*; do echo ${p#/proc/} $(tr '\\0' ' ' < $p/cmdline); done"
        ).stdout.splitlines():
            number, _, words = line.partition(" ")
            if pattern in words:
                self.run(f"kill -9 {number}")

    def cut_power(self) -> None:
        """Ends all of the board's processes at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def close(self) -> None:
        self.cut_power()
        self.gpu.close()
