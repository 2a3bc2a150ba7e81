"""Chooses the target of this machine, and checks a target against it.

table.py holds the targets, jetson.py tells which Jetson this is. A Jetson's target is found by its GPU and its
TensorRT; Jetson Linux decides where these two leave a choice.
"""

import importlib
import importlib.util
from typing import Any, List, Optional, Tuple

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.common.messages import log
from effedge.engines.gpu import first_gpu
from effedge.engines.targets.jetson import Jetson, find_jetson
from effedge.engines.targets.packages import how_to_get, how_to_pip_install, installed, installed_version
from effedge.engines.targets.table import (
    BY_PAIRS,
    CONVOLUTION_KINDS,
    DEPTHWISE,
    FLAGS,
    FP8,
    FP8_CAPABILITY,
    GROUPED,
    HINT,
    PRECISIONS,
    ROWS,
    TARGETS,
    TYPED,
    TYPED_DLA,
    Target,
)

JETSONS = [row for row in ROWS if row.jetson]
NO_TENSORRT = "No module named 'tensorrt'"

__all__ = [
    "BY_PAIRS", "CONVOLUTION_KINDS", "DEPTHWISE", "FLAGS", "FP8", "FP8_CAPABILITY", "GROUPED", "HINT", "PRECISIONS",
    "ROWS", "TARGETS", "TYPED", "TYPED_DLA", "Target", "automatic_target", "check_buildable_here", "check_gpu",
    "check_machine", "check_precision", "find_jetson", "gpu_answers", "has_fp8", "import_backend", "installed",
    "installed_version", "resolve_target", "runs_here", "targets_of", "targets_with_fp8", "what_to_do",
]  # fmt: skip

JETPACK_ARCHIVE = "https://developer.nvidia.com/embedded/jetpack-archive"
# From "Updating a Jetson Device" of the Jetson Linux Developer Guide, R35.
UPDATE_5_0 = (
    "update it to JetPack 5.1: sudo sed -i 's/r35.1/r35.4/' /etc/apt/sources.list.d/nvidia-l4t-apt-source.list && "
    "sudo apt update && sudo apt dist-upgrade && sudo apt install nvidia-jetpack && sudo reboot"
)


def resolve_target(name: str) -> Target:
    """Returns the row of `name`.

    `auto` is TensorRT where it is installed and a GPU answers: on a Jetson the row of that board, on another machine
    `trt` or `trt8`. Otherwise it is the CPU. A message says which, and why.

    Raises UserError for an unknown name.
    """
    if name != "auto":
        return TARGETS[choose("target", name, ["auto", *TARGETS])]
    row, reason = automatic_target()
    log.info(f"target auto: {row.name} ({reason})")
    return row


def automatic_target() -> Tuple[Target, str]:
    """Returns the target of this machine, and the reason."""
    trt, cpu, board = TARGETS["trt"], TARGETS["cpu"], find_jetson()
    if importlib.util.find_spec("tensorrt") is None:
        how = f"; {how_to_get(JETSONS[0], NO_TENSORRT)}" if board else ""
        return cpu, f"TensorRT is not installed{how}"
    if not gpu_answers():
        return cpu, "TensorRT is installed, but no NVIDIA GPU answers"
    version = installed_version(trt)
    rows = targets_of(board, version)
    if board is None:
        return (rows or [trt])[0], "TensorRT is installed and a GPU answers"
    found = f"this board is {board.describe(version)}"
    return (rows[0], found) if rows else (cpu, f"{found}: {what_to_do('tensorrt', board, version, 'make engine')}")


def targets_of(board: Optional[Jetson], version: Optional[str]) -> List[Target]:
    """Lists the rows of TensorRT that a board, or a machine that is no Jetson, can build; several if the board does not
    say enough. `version` is TensorRT's; where it is None, Jetson Linux stands for it."""
    if board is None:
        desktop = [TARGETS["trt"], TARGETS["trt8"]]
        return [row for row in desktop if version is not None and version.startswith(row.versions)]
    rows = [row for row in JETSONS if board.kind in (None, row.jetson)]
    of_release = [row for row in rows if board.l4t is not None and board.l4t.startswith(row.l4t)]
    if version is None:
        return of_release
    # In a container TensorRT may be of another JetPack than the board's, and is what builds.
    of_version = [row for row in rows if version.startswith(row.versions)]
    return [row for row in of_version if row in of_release] or of_version


def what_to_do(backend: str, board: Optional[Jetson], version: Optional[str], command: str) -> str:
    """Returns the advice for a machine that is not the target's: `command` (such as "make bundle") with a target that
    fits, or how to get to one."""
    rows = targets_of(board, version) if backend == "tensorrt" else []
    if rows:
        return f"{command} TARGET={' or '.join(row.name for row in rows)}"
    if board is None:
        row = next(row for row in ROWS if row.backend == backend and not row.jetson)
        package = f"'{row.distributions[0]}=={row.versions[0]}*'"  # quoted: a shell may take the asterisk for files
        return f"{how_to_pip_install(package)}, or {command} TARGET=cpu"
    if has_jetpack_5_0(board):
        return UPDATE_5_0
    known = [row for row in JETSONS if board.kind in (None, row.jetson)]
    if not known:
        return f"there is no target for TensorRT on a {board.kind}; {command} TARGET=cpu"
    jetpacks = " or ".join(f"{row.device.partition(', ')[2]} (for {row.name})" for row in known)
    return f"install {jetpacks} from {JETPACK_ARCHIVE}, or {command} TARGET=cpu"


def check_machine(target: Target, board: Optional[Jetson], version: Optional[str], command: str) -> None:
    """Raises UserError, with what is here and the command that helps, if this machine is not the target's.

    Args:
        board: the Jetson, None on another machine.
        version: of the target's backend here, None if that is missing or does not say.
        command: what is to be repeated with another target, such as "make bundle".
    """
    name = f"{target.name} ({target.device})"
    if target.jetson and board is None:
        raise UserError(
            f"{name} is built on the Jetson itself, and this machine is no Jetson (GPU 0 is no Jetson's, or none "
            "answers and there is no /etc/nv_tegra_release; in a container, docker run needs --runtime nvidia): run "
            f"the same command on the board, or {command} TARGET=cpu"
        )
    if version is not None:
        fits = not target.versions or version.startswith(target.versions)
        needs = f"{target.backend} {' or '.join(f'{prefix}x' for prefix in target.versions)}"
    else:  # Jetson Linux tells the JetPack; one that no row names is newer than the table, and its TensorRT will tell
        rows = targets_of(board, None)
        fits = not target.jetson or target in rows or not (rows or has_jetpack_5_0(board))
        needs = f"Jetson Linux {' or '.join(f'{prefix}x' for prefix in target.l4t)}"
    is_kind = not target.jetson or board is None or board.kind in (None, target.jetson)
    if fits and is_kind:
        return
    here = f"{target.backend} {version} is installed" if board is None else f"this board is {board.describe(version)}"
    built = f"is built with {needs}" if is_kind else f"is built on {target.jetson} boards"
    raise UserError(f"{name} {built}, and {here}: {what_to_do(target.backend, board, version, command)}")


def has_jetpack_5_0(board: Optional[Jetson]) -> bool:
    """Tells if a board has JetPack 5.0, whose TensorRT 8.4 no row is for."""
    return board is not None and board.l4t is not None and board.l4t.startswith("35.1.")


def gpu_answers() -> bool:
    """Tells if the NVIDIA driver is there and counts at least one GPU."""
    return first_gpu() is not None


def runs_here(target: Target) -> bool:
    """Tells if this machine can run the target's engines: always for a CPU; otherwise an NVIDIA GPU must answer."""
    return target.on_cpu or gpu_answers()


def check_precision(precision: str, target: Target) -> None:
    """Raises UserError for a precision that the target cannot build, or is not worth building there."""
    choose("precision", precision, (*PRECISIONS, FP8))
    if precision == FP8 and not target.fp8:
        lowest = ".".join(map(str, FP8_CAPABILITY))
        raise UserError(
            f"{target.name} ({target.device}) has no FP8; {targets_with_fp8()} have it, on GPUs from compute "
            f"capability {lowest} on: build PRECISION=int8 or fp16"
        )
    if precision == "int8" and not target.fast_int8:
        raise UserError(f"{target.name} ({target.device}) has no fast INT8: build PRECISION=fp16 for it")
    if precision == "fp16" and not target.sixteen_bits:
        raise UserError(
            f"{target.name} ({target.device}) computes in float32 alone: build PRECISION=fp32 or int8 for it"
        )


def check_gpu(precision: str, target: Target) -> None:
    """Raises UserError if an engine for the GPU at hand is to be FP8, and that GPU has none."""
    gpu = first_gpu()
    if precision == FP8 and target.backend == "tensorrt" and gpu is not None and not has_fp8(gpu.capability):
        lowest = ".".join(map(str, FP8_CAPABILITY))
        raise UserError(
            f"{gpu.name} has compute capability {gpu.capability}, and FP8 needs {lowest} or later: build "
            "PRECISION=int8 or fp16"
        )


def targets_with_fp8() -> str:
    """Lists the names of the targets that have FP8."""
    return ", ".join(row.name for row in ROWS if row.fp8)


def has_fp8(capability: str) -> bool:
    """Tells if GPUs of a compute capability, like "8.9", have FP8."""
    return tuple(map(int, capability.split("."))) >= FP8_CAPABILITY


def check_buildable_here(target: Target) -> None:
    """Raises UserError unless this machine can build for the target. Imports nothing heavy."""
    check_buildable_on(target, find_jetson())


def check_buildable_on(target: Target, board: Optional[Jetson]) -> None:
    """Does the work of `check_buildable_here` on a board, or on another machine."""
    is_installed = importlib.util.find_spec(target.backend) is not None
    check_machine(target, board, installed_version(target) if is_installed else None, "make engine")
    if not is_installed:
        how = how_to_get(target, f"No module named '{target.backend}'")
        raise UserError(f"target '{target.name}' needs the Python package {target.backend}, not installed: {how}")


def import_backend(target: Target) -> Any:
    """Imports the backend's module and checks its version against the row. Raises UserError."""
    board = find_jetson()
    check_buildable_on(target, board)
    try:
        module = importlib.import_module(target.backend)
    except ImportError as error:
        how = how_to_get(target, str(error))
        raise UserError(f"{target.backend} is installed but does not import: {error}: {how}") from error
    check_machine(target, board, module.__version__, "make engine")
    return module
