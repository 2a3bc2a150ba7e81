"""Holds the table of targets: the backend that runs an engine there, and what its builder can and cannot do.

A row is a target.

Sources: NVIDIA's JetPack release notes (which TensorRT and Python a JetPack ships), onnx-tensorrt's
docs/operators.md of each release (opset ceilings), TensorRT's migration guide to 11 (flags removed: typed networks
only), TensorRT's support matrices (10.3 to 10.7 for JetPack 6), "Working with DLA" of TensorRT 11.4.1. The rows of
Jetsons were written from these sources before any Jetson was at hand: the README says what was run.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

from effedge.engines.targets.jetson import NANO, ORIN, THOR, XAVIER

PRECISIONS = ("fp32", "fp16", "int8")
FP8 = "fp8"  # the precision of targets whose row has it
BY_PAIRS = ("int8", FP8)  # the precisions that an ONNX states by Q/DQ pairs
FP8_CAPABILITY = (8, 9)  # the first compute capability with FP8 (CUDA C++ Programming Guide, "Compute Capabilities")

# How the builder is told a precision:
TYPED = "typed"  # by the ONNX's own tensor types alone: FP16 tensors, Q/DQ pairs
FLAGS = "flags"  # by builder flags over an FP32 ONNX; INT8 needs its Q/DQ pairs and the flag
HINT = "hint"  # by a hint to the runtime; INT8 by its Q/DQ pairs

TYPED_DLA = (11, 0)  # the first TensorRT that builds typed networks alone, for a DLA too

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
        fp8: the backend builds FP8, on GPUs of FP8_CAPABILITY and later.
        zero_points: INT8 activations may have zero points, and are not slower with them.
        dla: the device has a DLA (deep-learning accelerator) that its TensorRT builds for.
        dla_note: a condition of that which only the board can check.
        compatible: the builder offers plans for later TensorRTs and for other GPUs (from 8.6 on, and on no JetPack).
        jetson: the kind of Jetson (jetson.py). Its engines are built on the device itself, because plans
            need the exact TensorRT that made them. None: no Jetson.
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
    fp8: bool = False
    zero_points: bool = False
    dla: bool = False
    dla_note: str = ""
    compatible: bool = False
    jetson: Optional[str] = None
    l4t: Tuple[str, ...] = ()
    sixteen_bits: bool = True
    simulates_int8: bool = False
    stand_in: Optional[str] = None

    @property
    def on_cpu(self) -> bool:
        return self.backend in ("openvino", "onnxruntime")

    @property
    def first_version(self) -> Tuple[int, int]:
        """TensorRT's version on a GPU's target, the first of several; TensorRT-RTX has the parser of 10.

        >>> TARGETS["jetson-xavier"].first_version, TARGETS["rtx"].first_version
        ((8, 5), (10, 0))
        """
        if self.backend != "tensorrt":
            return 10, 0
        major, minor = self.versions[0].split(".")[:2]
        return int(major), int(minor or 0)

    def takes_ranges(self, dla: str) -> bool:
        """Tells if INT8 there is by ranges, as on the DLA up to TensorRT 10.7, which takes no Q/DQ pairs."""
        return bool(dla) and self.dla and self.first_version < TYPED_DLA

    def typed_for(self, dla: str) -> bool:
        """Tells if networks are strongly typed there, with or without a DLA (BuildOptions.dla)."""
        return self.precision_by == TYPED and not (dla and self.first_version < TYPED_DLA)

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

JETPACK_5_1 = ("35.2.", "35.3.", "35.4.", "35.5.", "35.6.")

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
        ("1.",), fp8=True,
    ),
    Target(
        "trt", "this machine's NVIDIA GPU", "tensorrt", TYPED, 20, TENSORRT, ("10.", "11."), compatible=True, fp8=True,
    ),
    Target(
        "trt8", "this machine's NVIDIA GPU, by TensorRT 8.6", "tensorrt", FLAGS, 17, TENSORRT, ("8.6.",),
        progress=False, compatible=True,
    ),
    Target(
        "jetson-nano", "Nano, JetPack 4.6.1", "tensorrt", FLAGS, 13, TENSORRT, ("8.2.",), "3.6",
        uint8_input=False, progress=False, fast_int8=False, jetson=NANO, l4t=("32.7.",),
    ),
    # JetPack 5.0 (35.1) has no row: its TensorRT 8.4 takes no uint8 input, and apt updates it to 5.1.
    Target(
        "jetson-xavier", "Xavier, JetPack 5.1", "tensorrt", FLAGS, 17, TENSORRT, ("8.5.",), "3.8",
        progress=False, dla=True, jetson=XAVIER, l4t=JETPACK_5_1,
    ),
    Target(
        "jetson-orin-jp5", "Orin, JetPack 5.1", "tensorrt", FLAGS, 17, TENSORRT, ("8.5.",), "3.8",
        progress=False, dla=True, jetson=ORIN, l4t=JETPACK_5_1,
    ),
    Target(
        "jetson-orin-jp6.0", "Orin, JetPack 6.0", "tensorrt", FLAGS, 17, TENSORRT, ("8.6.",), "3.10",
        progress=False, dla=True, jetson=ORIN, l4t=("36.2.", "36.3."),
    ),
    # JetPack 6.1 and 6.2 bring 10.3; NVIDIA publishes 10.4 to 10.7 for them too. 10.7 is the last 10.x with a DLA.
    Target(
        "jetson-orin", "Orin, JetPack 6.1 or 6.2", "tensorrt", TYPED, 20, TENSORRT,
        ("10.3.", "10.4.", "10.5.", "10.6.", "10.7."), "3.10", dla=True, jetson=ORIN, l4t=("36.4.", "36.5."),
    ),
    Target(
        "jetson-thor", "Thor, JetPack 7", "tensorrt", TYPED, 22, TENSORRT, ("10.", "11."), "3.12",
        fp8=True, jetson=THOR, l4t=("38.", "39."),
    ),
    # The board has a DLA, which no TensorRT from 10.8 to 11.3 builds for.
    Target(
        "jetson-orin-jp7", "Orin, JetPack 7.2", "tensorrt", TYPED, 24, TENSORRT, ("10.16.",), "3.12",
        jetson=ORIN, l4t=("39.",),
    ),
    Target(
        "jetson-orin-trt11", "Orin, JetPack 7.2.2 with TensorRT 11", "tensorrt", TYPED, 24, TENSORRT, ("11.",), "3.12",
        dla=True, dla_note="NVIDIA names a DLA for AGX Orin alone, from JetPack 7.2.2 and TensorRT 11.4.1 on",
        jetson=ORIN, l4t=("39.",),
    ),
)  # fmt: skip
TARGETS = {row.name: row for row in ROWS}
