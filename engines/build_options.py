"""Holds the options of a build beside precision and target, and checks them against what the target offers."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import List, Optional, Tuple

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.timing.machine import MEMORY_INFO, field, read
from effedge.engines.gpu import Gpu, first_gpu
from effedge.engines.targets import FP8, TARGETS, Target, has_fp8

LEVELS = range(6)
DLA_MODES = ("fallback", "only")
AUTO, EXACT, POLYNOMIAL = SWISHES = ("auto", "exact", "polynomial")
FLOAT_PARTS = (AUTO, FP16, FP32) = (AUTO, "fp16", "fp32")
OFF = "off"
CURRENT_GPU = "current"  # the compute capability of the GPU at hand
FOR_CPUS = ("float_parts", "swish", "cpu_blocks", "compare_on")  # all other options are for GPUs
BOARD_SHARE = 4  # of a board's memory, a 4th is the default workspace
# Where TensorRT-RTX has no INT8, by its support matrix. 1.7 builds such a plan in FP32, for the plan's other GPUs too.
NO_INT8 = ("7.5",)


@dataclass(frozen=True)
class BuildOptions:
    """The user's options of a build.

    Attributes:
        compute_capabilities: GPUs that TensorRT-RTX builds for, like "8.9", or "current", the one at hand; empty:
            portable.
        workspace_mib: the most GPU memory that one layer may use while it runs; None: `default_workspace_mib`.
        optimization_level: 0 (quick build) to 5 (slow build); None: TensorRT's own, 3.
        version_compatible: the plan also runs on later TensorRTs.
        hardware_compatible: the plan also runs on other GPUs from Ampere on.
        dla: empty: no DLA. "fallback": layers that the DLA has go to the DLA, the other layers to the GPU. "only":
            other layers are an error.
        float_parts: the precision of what is not INT8: "fp16" (or bfloat16, as the CPU has it), "fp32", or "auto"
            (engines/openvino/float_parts.py).
        swish: "polynomial" (engines/openvino/swish.py), "exact", or "auto", the faster one.
        cpu_blocks: how many of the first blocks are computed in C++ (engines/openvino/cpu_blocks/choose.py), "off", or
            "auto", the fastest number.
        compare_on: a file with the inputs on which the engine is compared with its ONNX; empty: drawn ones.
    """

    compute_capabilities: Tuple[str, ...] = ()
    workspace_mib: Optional[int] = None
    optimization_level: Optional[int] = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: str = ""
    float_parts: str = AUTO
    swish: str = AUTO
    cpu_blocks: str = AUTO
    compare_on: str = ""

    def check(self, target: Target, precision: str) -> None:
        """Raises UserError, before anything is built, for an option that the target does not offer."""
        self.check_cpu_options(target, precision)
        if target.on_cpu:
            for option in fields(self):
                if option.name not in FOR_CPUS and getattr(self, option.name) != option.default:
                    raise UserError(f"{OPTIONS[option.name]} is for GPUs: leave it out for {target.name}")
        if self.compute_capabilities and target.backend != "tensorrt_rtx":
            raise UserError(f"--compute-capability is for target rtx; {target.name} builds for the GPU that it runs on")
        numbers = self.numbered_capabilities()
        if precision == "int8" and set(NO_INT8).intersection(numbers):
            raise UserError(f"TensorRT-RTX has no INT8 for {NO_INT8[0]}: leave it out, or build fp16 for it by itself")
        without = [number for number in numbers if precision == FP8 and not has_fp8(number)]
        if without:
            raise UserError(
                f"compute capability {without[0]} has no FP8, 8.9 and later do: leave it out, or build int8 for it by "
                "itself"
            )
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

    def check_cpu_options(self, target: Target, precision: str) -> None:
        """Raises UserError for a precision of the float parts, a form of swish or a number of CPU blocks that does not
        exist or fit the target."""
        offered = target.backend == "openvino" and precision != "fp32"
        choose("precision of the float parts", self.float_parts, FLOAT_PARTS)
        if self.float_parts != AUTO and not (offered and precision == "int8"):
            raise UserError(f"--float-parts {self.float_parts} is for int8 engines of target cpu: leave it out")
        choose("swish", self.swish, SWISHES)
        if self.swish == POLYNOMIAL and not offered:
            raise UserError(f"--swish {POLYNOMIAL} is for fp16 and int8 engines of target cpu: leave it out")
        if self.cpu_blocks not in (AUTO, OFF):
            if not self.cpu_blocks.isdecimal() or int(self.cpu_blocks) < 1:
                raise UserError(f"--cpu-blocks {self.cpu_blocks}: expected {AUTO}, {OFF} or a number of blocks")
            if not offered:
                raise UserError(
                    f"--cpu-blocks {self.cpu_blocks} is for fp16 and int8 engines of target cpu: leave it out"
                )

    def check_level(self, target: Target) -> None:
        """Raises UserError for an optimization level that does not exist, or a target without levels."""
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

    def numbered_capabilities(self) -> List[str]:
        """Returns the compute capabilities, with the number of CURRENT_GPU in its place. Raises UserError without a
        GPU."""
        if CURRENT_GPU not in self.compute_capabilities:
            return list(self.compute_capabilities)
        gpu = first_gpu()
        if gpu is None:
            raise UserError(
                f"--compute-capability {CURRENT_GPU}: CUDA finds no GPU here; name those to build for, such as 8.9"
            )
        return [gpu.capability if name == CURRENT_GPU else name for name in self.compute_capabilities]

    def as_arguments(self) -> List[str]:
        """Returns the words of a command line from which `read_build_options` reads the same options, on a machine that
        need not have the file of `compare_on`.

        >>> BuildOptions(compute_capabilities=("8.9", "12.0"), version_compatible=True).as_arguments()
        ['--compute-capability', '8.9', '12.0', '--version-compatible']
        """
        words: List[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default and option.name != "compare_on":
                words.append(OPTIONS[option.name])
                if isinstance(value, tuple):
                    words += value
                elif value is not True:
                    words.append(str(value))
        return words


DEFAULT = BuildOptions()
OPTIONS = {
    "compute_capabilities": "--compute-capability",
    "workspace_mib": "--workspace-mib",
    "optimization_level": "--optimization-level",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "dla": "--dla",
    "float_parts": "--float-parts",
    "swish": "--swish",
    "cpu_blocks": "--cpu-blocks",
    "compare_on": "--compare-on",
}


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a command that builds."""
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
    for name, result in (
        ("version_compatible", "a plan that later TensorRTs load too"),
        ("hardware_compatible", "a plan for all GPUs from Ampere on"),
    ):
        offering = ", ".join(row.name for row in TARGETS.values() if row.compatible)
        parser.add_argument(OPTIONS[name], action="store_true", help=f"{result} ({offering}); it may be slower")
    parser.add_argument(
        "--dla", default="", metavar="MODE",
        help="fallback (layers that the DLA does not have go to the GPU) or only (they are an error)",
    )  # fmt: skip
    parser.add_argument(
        "--float-parts", default=AUTO, metavar="PRECISION",
        help=f"what is not INT8 in an int8 engine: {FP16} (bfloat16 where the CPU has that), {FP32}, or {AUTO}, "
        f"16 bits where they are faster and leave the outputs near FP32's (cpu, int8; default: {AUTO})",
    )  # fmt: skip
    parser.add_argument(
        "--swish", default=AUTO, metavar="FORM",
        help=f"{EXACT}, {POLYNOMIAL} (within 0.0064) or {AUTO}, the faster one (cpu, fp16 and int8; default: {AUTO})",
    )  # fmt: skip
    parser.add_argument(
        "--cpu-blocks", default=AUTO, metavar="N",
        help="how many of an EfficientNet's first blocks are computed in effedge's own C++, in 16 bits where the CPU "
        f"has them; {OFF}, or {AUTO}, the fastest number (cpu, fp16 and int8; default: {AUTO})",
    )  # fmt: skip
    parser.add_argument(
        "--compare-on", default="", metavar="FILE",
        help="the inputs on which the engine is compared with its ONNX: an image, or an .npz with an array for each "
        "input (default: drawn ones)",
    )  # fmt: skip


def read_build_options(arguments: argparse.Namespace) -> BuildOptions:
    """Returns the options of a command line that `add_build_options` prepared."""
    values = {option.name: getattr(arguments, option.name) for option in fields(BuildOptions)}
    return BuildOptions(**{**values, "compute_capabilities": tuple(arguments.compute_capabilities)})


def default_workspace_mib(gpu: Optional[Gpu], memory_info: Path = MEMORY_INFO) -> Optional[int]:
    """Returns the workspace limit where the user sets none: a quarter of a board's memory if its GPU shares that memory
    with the CPU; else None, no limit.

    TensorRT's own limit is all of the device's memory. A discrete GPU answers a request that is too large with an
    error, and TensorRT tries the next kernel. On a board the request succeeds, and the system kills the build or
    another process. The limit is a share of the board's memory, not of the free memory, so that an engine does not
    depend on what ran beside its build.
    """
    if gpu is None or not gpu.integrated:
        return None
    total = field(read(memory_info), "MemTotal")
    return int(total.split()[0]) // 1024 // BOARD_SHARE if total else gpu.memory_mib // BOARD_SHARE
