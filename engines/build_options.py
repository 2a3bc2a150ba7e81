"""What may be chosen of a build beside precision and target, and which target offers what."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, List, Optional, Tuple

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.timing.machine import MEMORY_INFO, field, read
from effedge.engines.gpu import Gpu, first_gpu
from effedge.engines.targets import TARGETS, Target

LEVELS = range(6)
DLA_MODES = ("fallback", "only")
AUTO, EXACT, POLYNOMIAL = SWISHES = ("auto", "exact", "polynomial")
OFF = "off"
CURRENT_GPU = "current"  # the compute capability of the GPU at hand
FOR_CPUS = ("swish", "front")  # all other choices are for GPUs
SHARE = 4
# Where TensorRT-RTX has no INT8, by its support matrix: 1.7 builds such a plan in FP32, for the other GPUs in it too.
NO_INT8 = ("7.5",)


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Attributes:
        compute_capabilities: GPUs that TensorRT-RTX builds for, like "8.9", or "current", the one at hand; empty:
            portable.
        workspace_mib: the most GPU memory that one layer may use while it runs; None: `default_workspace_mib`.
        optimization_level: 0 (quick build) to 5 (slow build); None: TensorRT's own, 3.
        version_compatible: the plan also runs on later TensorRTs.
        hardware_compatible: the plan also runs on other GPUs from Ampere on.
        dla: empty: no DLA. "fallback": what the DLA has a layer for goes there, the rest to the GPU. "only": a rest is
            an error.
        swish: "polynomial" (engines/openvino/swish.py), "exact", or "auto", the faster one.
        front: how many of the first blocks are C++ (engines/openvino/cpu_blocks/choose.py), "off", or "auto", the fastest.
    """

    compute_capabilities: Tuple[str, ...] = ()
    workspace_mib: Optional[int] = None
    optimization_level: Optional[int] = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: str = ""
    swish: str = AUTO
    front: str = AUTO

    def check(self, target: Target, precision: str) -> None:
        """Raise UserError, before anything is built, for what the target does not offer."""
        choose("swish", self.swish, SWISHES)
        if self.swish == POLYNOMIAL and (target.backend != "openvino" or precision == "fp32"):
            raise UserError(f"--swish {POLYNOMIAL} is for fp16 and int8 engines of target cpu: leave it out")
        if self.front not in (AUTO, OFF):
            if not self.front.isdecimal() or int(self.front) < 1:
                raise UserError(f"--front {self.front}: expected {AUTO}, {OFF} or a number of blocks")
            if target.backend != "openvino" or precision == "fp32":
                raise UserError(f"--front {self.front} is for fp16 and int8 engines of target cpu: leave it out")
        if target.on_cpu:
            for one in fields(self):
                if one.name not in FOR_CPUS and getattr(self, one.name) != one.default:
                    option = OPTIONS[one.name]
                    raise UserError(f"{option} is for GPUs: leave it out for {target.name}")
        if self.compute_capabilities and target.backend != "tensorrt_rtx":
            raise UserError(f"--compute-capability is for target rtx; {target.name} builds for the GPU that it runs on")
        numbers = self.numbered_capabilities()
        if precision == "int8" and set(NO_INT8).intersection(numbers):
            raise UserError(f"TensorRT-RTX has no INT8 for {NO_INT8[0]}: leave it out, or build fp16 for it by itself")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UserError(f"--workspace-mib {self.workspace_mib}: expected 1 or more MiB")
        self.check_level(target)
        for name in ("version_compatible", "hardware_compatible"):
            if getattr(self, name) and not target.compatible:
                offering = ", ".join(row.name for row in TARGETS.values() if row.compatible)
                raise UserError(f"{OPTIONS[name]}: {target.name} does not offer it, {offering} do; leave it out")
        if self.dla:
            choose("DLA mode", self.dla, DLA_MODES)
            if precision == "fp32":
                raise UserError("a DLA computes in FP16 and INT8, not in fp32: build PRECISION=fp16 for --dla")

    def numbered_capabilities(self) -> List[str]:
        """The compute capabilities, with CURRENT_GPU's as a number too."""
        if CURRENT_GPU not in self.compute_capabilities:
            return list(self.compute_capabilities)
        gpu = first_gpu()
        if gpu is None:
            raise UserError(
                f"--compute-capability {CURRENT_GPU}: CUDA finds no GPU here; name those to build for, such as 8.9"
            )
        return [gpu.capability if one == CURRENT_GPU else one for one in self.compute_capabilities]

    def as_options(self) -> List[str]:
        """The words of a command line that `add_choices` takes, for these.

        >>> Choices(compute_capabilities=("8.9", "12.0"), version_compatible=True).as_options()
        ['--compute-capability', '8.9', '12.0', '--version-compatible']
        """
        words: List[str] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                words.append(OPTIONS[one.name])
                if isinstance(value, tuple):
                    words += value
                elif value is not True:
                    words.append(str(value))
        return words

    def check_level(self, target: Target) -> None:
        level = self.optimization_level
        if level is None:
            return
        if level not in LEVELS:
            raise UserError(f"--optimization-level {level}: expected {LEVELS[0]} (quick build) to {LEVELS[-1]} (slow)")
        if target.backend == "tensorrt_rtx":
            raise UserError(
                "--optimization-level does nothing for rtx, which chooses its kernels where the plan is loaded: "
                "leave it out"
            )


DEFAULT = Choices()
OPTIONS = {
    "compute_capabilities": "--compute-capability",
    "workspace_mib": "--workspace-mib",
    "optimization_level": "--optimization-level",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "dla": "--dla",
    "swish": "--swish",
    "front": "--front",
}


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The options of a command that builds."""
    parser.add_argument(
        "--compute-capability", nargs="+", default=[], metavar="M.N", dest="compute_capabilities",
        help=f"GPUs to build for, like 8.6 8.9 12.0, or {CURRENT_GPU} (rtx only; default: portable from 8.0 on)",
    )  # fmt: skip
    parser.add_argument(
        "--workspace-mib", type=int, metavar="N",
        help="GPU memory that one layer may use while it runs (default: a quarter of the board's memory where the GPU "
        "shares that, else no limit)",
    )  # fmt: skip
    parser.add_argument(
        "--optimization-level", type=int, metavar="N",
        help=f"{LEVELS[0]} (quick build) to {LEVELS[-1]} (TensorRT 8.6 and later; default: its own, 3)",
    )  # fmt: skip
    for name, what in (
        ("version_compatible", "a plan that later TensorRTs load too"),
        ("hardware_compatible", "a plan for all GPUs from Ampere on"),
    ):
        offering = ", ".join(row.name for row in TARGETS.values() if row.compatible)
        parser.add_argument(OPTIONS[name], action="store_true", help=f"{what} ({offering}); it may be slower")
    parser.add_argument(
        "--dla", default="", metavar="MODE",
        help="fallback (what the DLA has no layer for goes to the GPU) or only (it is an error)",
    )  # fmt: skip
    parser.add_argument(
        "--swish", default=AUTO, metavar="FORM",
        help=f"{EXACT}, {POLYNOMIAL} (within 0.0064) or {AUTO}, the faster one (cpu, fp16 and int8; default: {AUTO})",
    )  # fmt: skip
    parser.add_argument(
        "--front", default=AUTO, metavar="N",
        help="how many of an EfficientNet's first blocks are C++ of ours, in 16 bits where the CPU has them; "
        f"{OFF}, or {AUTO}, the fastest (cpu, fp16 and int8; default: {AUTO})",
    )  # fmt: skip


def read_choices(given: Any) -> Choices:
    """What `add_choices` took."""
    return Choices(
        tuple(given.compute_capabilities),
        given.workspace_mib,
        given.optimization_level,
        given.version_compatible,
        given.hardware_compatible,
        given.dla,
        given.swish,
        given.front,
    )


def default_workspace_mib(gpu: Optional[Gpu], memory_info: Path = MEMORY_INFO) -> Optional[int]:
    """The limit where none is given: a quarter of the memory of a board whose GPU shares it; else None, no limit.

    TensorRT's own limit is all of the device's memory. A GPU of its own answers a request that is too large with an
    error, and TensorRT tries the next kernel. On a board the request succeeds, and the system kills the build, or
    something else. It is a share of what the board has, not of what is free: what was built shall not depend on what
    ran beside it.
    """
    if gpu is None or not gpu.integrated:
        return None
    total = field(read(memory_info), "MemTotal")
    return int(total.split()[0]) // 1024 // SHARE if total else gpu.memory_mib // SHARE
