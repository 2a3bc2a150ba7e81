"""Holds the table of targets: the backend that runs an engine there, and what its builder can and cannot do.

A row is a target.

Sources: NVIDIA's JetPack release notes (which TensorRT and Python a JetPack ships), onnx-tensorrt's
docs/operators.md of each release (opset ceilings), TensorRT's migration guide to 11 (flags removed: typed networks
only). The rows of Jetsons were written from these sources before any Jetson was at hand: the README says what was run.
"""

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.common.messages import log
from effedge.engines.gpu import first_gpu

PRECISIONS = ("fp32", "fp16", "int8")
L4T_RELEASE = Path("/etc/nv_tegra_release")  # every JetPack has it, nothing else does

# How the builder is told a precision:
TYPED = "typed"  # by the ONNX's own tensor types alone: FP16 tensors, Q/DQ pairs
FLAGS = "flags"  # by builder flags over an FP32 ONNX; INT8 needs its Q/DQ pairs and the flag
HINT = "hint"  # by a hint to the runtime; INT8 by its Q/DQ pairs

# Kinds of convolutions with groups: a group for each channel, or larger groups.
CONVOLUTION_KINDS = DEPTHWISE, GROUPED = "depthwise", "grouped"


@dataclass(frozen=True)
class Target:
    """A row of the table.

    Attributes:
        versions: prefixes of the backend's versions that the row holds for; empty: any.
        python: the Python that the device comes with; None: the user's own.
        opset: the highest ONNX opset that the backend's parser reads.
        uint8_input: the parser takes a uint8 network input (TensorRT from 8.5).
        progress: the builder reports progress and can be cancelled (IProgressMonitor, TensorRT from 8.6.1 of 10.x).
        fast_int8: INT8 is worth building there.
        zero_points: INT8 activations may have zero points, and are not slower with them.
        dla: the device has a DLA (deep-learning accelerator) that its TensorRT builds for.
        compatible: the builder offers plans for later TensorRTs and for other GPUs (from 8.6 on, and on no JetPack).
        jetson: engines are built on the device itself, because plans need the exact TensorRT that made them.
        distributions: names on the package index that may have brought the backend.
        l4t: prefixes of the Jetson Linux (L4T) releases that bring this JetPack.
        sixteen_bits: the backend computes in 16 bits.
        simulates_int8: INT8 models run there with INT8's results, but most layers are computed in float32.
        stand_in: the target that replaces this one on a device that lacks the backend, with the same ONNX.
    """

    name: str
    device: str
    backend: str
    precision_by: str
    opset: int
    distributions: Tuple[str, ...]
    versions: Tuple[str, ...] = ()
    python: Optional[str] = None
    uint8_input: bool = True
    progress: bool = True
    fast_int8: bool = True
    zero_points: bool = False
    dla: bool = False
    compatible: bool = False
    jetson: bool = False
    l4t: Tuple[str, ...] = ()
    sixteen_bits: bool = True
    simulates_int8: bool = False
    stand_in: Optional[str] = None

    @property
    def on_cpu(self) -> bool:
        return self.backend in ("openvino", "onnxruntime")

    @property
    def float_kinds(self) -> Tuple[str, ...]:
        """Kinds of convolutions that stay in 16 bit unless the user asks for INT8.

        Of larger groups TensorRT computes each by a kernel of its own in INT8, and is slower than in FP16
        (NVIDIA/TensorRT#4529, #1409). For depthwise convolutions it has INT8 kernels: the release notes of 10.12
        recommend INT8 for networks with them, over FP8.
        """
        return () if self.on_cpu else (GROUPED,)


OPENVINO = ("openvino",)
ONNXRUNTIME = ("onnxruntime",)
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
TENSORRT_RTX = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")

ROWS = (
    Target(
        "cpu", "x86-64 or Arm CPU", "openvino", HINT, 23, OPENVINO,
        progress=False, zero_points=True, stand_in="cpu-ort",
    ),
    Target(
        "cpu-ort", "a CPU where OpenVINO does not run", "onnxruntime", HINT, 21, ONNXRUNTIME,  # 1.19's, of Python 3.8
        progress=False, zero_points=True, sixteen_bits=False, simulates_int8=True,
    ),
    Target(
        "rtx", "GeForce RTX 30, RTX PRO and later (RTX 20: 7.5, no INT8)", "tensorrt_rtx", TYPED, 24, TENSORRT_RTX,
        ("1.",),
    ),
    Target("trt", "this machine's NVIDIA GPU", "tensorrt", TYPED, 20, TENSORRT, ("10.", "11."), compatible=True),
    Target(
        "trt8", "this machine's NVIDIA GPU, by TensorRT 8.6", "tensorrt", FLAGS, 17, TENSORRT, ("8.6.",),
        progress=False, compatible=True,
    ),
    Target(
        "jetson-nano", "Nano, JetPack 4.6.1", "tensorrt", FLAGS, 13, TENSORRT, ("8.2.",), "3.6",
        uint8_input=False, progress=False, fast_int8=False, jetson=True, l4t=("32.7",),
    ),
    Target(
        "jetson-xavier", "Xavier, JetPack 5.1", "tensorrt", FLAGS, 17, TENSORRT, ("8.5.",), "3.8",
        progress=False, dla=True, jetson=True, l4t=("35.",),
    ),
    Target(
        "jetson-orin-jp5", "Orin, JetPack 5.1", "tensorrt", FLAGS, 17, TENSORRT, ("8.5.",), "3.8",
        progress=False, dla=True, jetson=True, l4t=("35.",),
    ),
    Target(
        "jetson-orin-jp6.0", "Orin, JetPack 6.0", "tensorrt", FLAGS, 17, TENSORRT, ("8.6.",), "3.10",
        progress=False, dla=True, jetson=True, l4t=("36.2", "36.3"),
    ),
    Target(
        "jetson-orin", "Orin, JetPack 6.1 or 6.2", "tensorrt", TYPED, 20, TENSORRT, ("10.3.",), "3.10",
        dla=True, jetson=True, l4t=("36.4", "36.5"),
    ),
    Target(
        "jetson-thor", "Thor, JetPack 7", "tensorrt", TYPED, 22, TENSORRT, ("10.", "11."), "3.12",
        jetson=True, l4t=("38.", "39."),
    ),
    # It has a DLA, but TensorRT builds for that only from 11.4.1 on, and only on the AGX.
    Target(
        "jetson-orin-jp7", "Orin, JetPack 7.2", "tensorrt", TYPED, 22, TENSORRT, ("10.", "11."), "3.12", jetson=True
    ),
)  # fmt: skip
TARGETS = {row.name: row for row in ROWS}


def resolve_target(name: str) -> Target:
    """Returns the row of `name`; `auto` is TensorRT where it imports and a GPU answers, otherwise the CPU, and a
    message says which.

    Raises UserError for an unknown name.
    """
    if name != "auto":
        return TARGETS[choose("target", name, ["auto", *TARGETS])]
    if importlib.util.find_spec("tensorrt") is None:
        reason, row = "TensorRT is not installed", TARGETS["cpu"]
    elif not gpu_answers():
        reason, row = "TensorRT is installed, but no NVIDIA GPU answers", TARGETS["cpu"]
    else:
        reason, row = "TensorRT is installed and a GPU answers", TARGETS["trt"]
    log.info(f"target auto: {row.name} ({reason})")
    return row


def gpu_answers() -> bool:
    """Tells if the NVIDIA driver is there and counts at least one GPU."""
    return first_gpu() is not None


def runs_here(target: Target) -> bool:
    """Tells if this machine can run the target's engines: always for a CPU; otherwise an NVIDIA GPU must answer."""
    return target.on_cpu or gpu_answers()


def installed(names: Sequence[str]) -> Optional[str]:
    """Returns the first of the distributions that is installed, without importing it."""
    for name in names:
        try:
            importlib.metadata.version(name)
            return name
        except importlib.metadata.PackageNotFoundError:
            pass
    return None


def check_precision(precision: str, target: Target) -> None:
    """Raises UserError for a precision that the target cannot build, or is not worth building there."""
    choose("precision", precision, PRECISIONS)
    if precision == "int8" and not target.fast_int8:
        raise UserError(f"{target.name} ({target.device}) has no fast INT8: build PRECISION=fp16 for it")
    if precision == "fp16" and not target.sixteen_bits:
        raise UserError(
            f"{target.name} ({target.device}) computes in float32 alone: build PRECISION=fp32 or int8 for it"
        )


def check_buildable_here(target: Target) -> None:
    """Raises UserError unless this machine can build for the target. Imports nothing heavy."""
    if target.jetson and not L4T_RELEASE.exists():
        raise UserError(
            f"target '{target.name}' ({target.device}) is built on the Jetson itself, and this machine is none "
            f"({L4T_RELEASE} is missing): run the same command there, or choose cpu or rtx here"
        )
    if importlib.util.find_spec(target.backend) is None:
        source = "JetPack brings it" if target.jetson else f"pip install {target.distributions[0]}"
        raise UserError(f"target '{target.name}' needs the Python package {target.backend}, not installed: {source}")


def import_backend(target: Target) -> Any:
    """Imports the backend's module and checks its version against the row. Raises UserError."""
    check_buildable_here(target)
    try:
        module = importlib.import_module(target.backend)
    except ImportError as error:
        raise UserError(f"{target.backend} is installed but does not import: {error}; install it anew") from error
    version = module.__version__
    if target.versions and not version.startswith(target.versions):
        expected = " or ".join(f"{prefix}x" for prefix in target.versions)
        raise UserError(
            f"target '{target.name}' ({target.device}) expects {target.backend} {expected}, but {version} is installed"
            ": choose the target of this device (--help lists them)"
        )
    return module
