"""The types of what the rooms hand to each other as JSON: the spec, the calibration's report, and the manifest.

- The spec is in the prepared ONNX (metadata_props["effedge"]): how the model takes images and what its outputs mean. An
  ONNX of another exporter has none; its spec is empty.
- The report of a calibration or of the FP16 conversion is in the ONNX that it made
  (metadata_props["effedge_calibration"]).
- The manifest is an engine folder's manifest.json; engines/manifest.py writes it.
"""

from typing import Dict, List, Mapping, Optional, TypedDict, Union

SPEC_KEY = "effedge"  # of metadata_props
CALIBRATION_KEY = "effedge_calibration"
BATCH_KEY = "effedge_batch"  # [min, opt, max] of an ONNX of another exporter
LETTERBOX, CENTER_CROP, STRETCH = "letterbox", "center-crop", "stretch"  # an input's `resize`


class InputSpec(TypedDict, total=False):
    """How a model takes its images.

    `resize` is "letterbox" with `fill`, an RGB colour; "center-crop" with `crop`, the share of the image's side; or
    "stretch", to the input without keeping the image's aspect, with `crop` where not all of the image is kept.
    """

    size: List[int]  # height, width
    batch: List[int]  # smallest, usual, largest
    interpolation: str
    resize: str
    fill: List[int]
    crop: float


class Spec(TypedDict, total=False):
    """A prepared model's description of itself. A class id without a class is None.

    `candidates` and `iou` are a detector's: the number of its candidates, and the IoU of its NMS where that is not the
    runtime's default; 1 for a model whose detections need none.
    """

    model: str
    weights: str
    task: str  # "detection" or "classification"
    labels: List[Optional[str]]
    input: InputSpec
    candidates: int
    iou: float


class SensitivityRow(TypedDict):
    """A group of layers whose inputs share a scale: its gain, and its share of the multiply-accumulates."""

    layers: List[str]
    tensors: List[str]
    gain: float
    macs: float


class BudgetAttempt(TypedDict):
    """An INT8 model that was tried: its number of scale groups in 16 bit, its share of multiply-accumulates in INT8."""

    groups: int
    int8_macs: float
    accuracy: float


# "float" and "int8" are the accuracy of both models; "float_fails" says that INT8 is better than can be believed. (A
# class would take the key `float` for the type.)
BudgetReport = TypedDict(  # noqa: UP013
    "BudgetReport",
    {
        "max_drop": float,
        "unit": str,
        "float": float,
        "int8": float,
        "float_fails": bool,
        "attempts": List[BudgetAttempt],
    },
)


class LatencyRatio(TypedDict):
    """A ratio of two latencies, and the ends of its interval."""

    ratio: float
    low: float
    high: float


class GroupRace(LatencyRatio):
    """A group of layers in 16 bit over the same in INT8: the precision that was chosen, and the name of the round."""

    group: str
    layers: List[str]
    kept: str
    round: str


class RoundRace(LatencyRatio):
    """The outcome of a round over the model before it, and the number of layers that went to 16 bit; `taken` is False
    if the outcome was dropped."""

    round: str
    layers: int
    taken: bool


class LatencyReport(LatencyRatio):
    """The choice by latency: the result over all of INT8; `taken` is False if the result is all of INT8."""

    groups: List[GroupRace]
    rounds: List[RoundRace]
    taken: bool


class FinetuneReport(TypedDict):
    """The steps of fine-tuning, 0 if its result was dropped, and the output error before it."""

    steps: int
    before: float


class HeldOutReport(TypedDict):
    """The output error of an INT8 model on other samples than those that chose it, and that of each block of its
    outputs; `fitted` says that its weights were fitted to these samples, as there are no others."""

    samples: int
    fitted: bool
    output_error: float
    blocks: Dict[str, float]


class CalibrationReport(TypedDict, total=False):
    """The report of an INT8 or FP8 calibration, of what followed it, or of the FP16 conversion."""

    method: str
    images: int  # runs that the ranges were taken from; 0 without calibration data
    float_layers: Dict[str, str]  # layers that are not in the precision, with the reason
    fp16_layers: int
    float32_nodes: Dict[str, str]  # of an INT8 model with FP16 around it: nodes in float32, with the reason
    zero_points: bool
    correction: str  # of the weights: none (to the nearest), or rounded (weights/round_weights.py)
    equalized: int  # groups of tensors whose channels were equalized
    int8_macs: float  # the share of multiply-accumulates in INT8
    int8_layers: int
    fp8_macs: float  # the same of an FP8 model
    fp8_layers: int
    output_error: float
    judged_as: Dict[str, str]  # how the output error takes each output
    output_kinds: Dict[str, str]  # of outputs whose meaning the user gave
    held_out: Optional[HeldOutReport]  # None: too few samples
    sqnr_db: Dict[str, float]  # at the last layers' outputs
    thresholds: Dict[str, float]  # magnitudes
    sensitivity: List[SensitivityRow]  # largest gain first
    budget: BudgetReport  # by search/accuracy_budget.py
    by_latency: LatencyReport  # by calibration/by_latency.py
    finetuned: FinetuneReport  # by pipeline/training/finetune


class KindTraffic(TypedDict):
    """The traffic of the kernels of one kind, in MiB for a run."""

    mib: float
    fp16_mib: float


class TrafficEntry(KindTraffic):
    """What an engine's kernels read and write, and would as FP16 (engines/traffic.py), in MiB for a run."""

    ratio: float  # of the engine's to FP16's
    by_type: Dict[str, float]
    by_kind: Dict[str, KindTraffic]


class TensorDescription(TypedDict):
    """An input or output of an engine; a dynamic dimension is its name, an unknown shape None."""

    name: str
    dtype: str
    shape: Optional[List[Union[int, str]]]


class CpuBlocksEntry(TypedDict):
    """The first blocks that an engine computes in C++. `ratio` is a run's latency with them over that without."""

    format: int
    file: str
    blocks: int  # how many
    ratio: Optional[float]  # None: not measured
    precisions: List[str]  # of matrix products and of vector arithmetic
    cpu: Mapping[str, object]  # that they were timed on


class FloatPartsEntry(TypedDict):
    """The precision of what is not INT8. `ratio` is a run's latency in 16 bits over that in FP32, and `decibels` say
    how near the outputs are."""

    precision: str  # "f32", "bf16" or "f16"
    ratio: Optional[float]  # None: not measured
    decibels: Optional[float]  # None: not measured


class SwishEntry(TypedDict):
    """The form of swish. `ratio` is a run's latency with the polynomial over that with exact swish."""

    form: str  # "exact" or "polynomial"
    error: float  # the largest
    ratio: Optional[float]  # None: not measured


class DlaEntry(TypedDict):
    """The use of a DLA, with the name and type of each layer that is on the GPU instead."""

    core: int
    mode: str  # "fallback" or "only"
    on_gpu: List[Dict[str, str]]


class FallbackEntry(TypedDict):
    """The reason why plan B was built: another ONNX than the one that was asked for, with `layers` in 16 bit."""

    reason: str
    layers: List[str]


class ComparisonEntry(TypedDict):
    """The comparison of an engine with the reference's run of its ONNX (engines/comparison): each output's decibels.

    `reference` and `inputs` are None where there was no comparison, and `note` says why; `corrected` are the operators
    that the backend's reader had read otherwise.
    """

    reference: Optional[str]
    inputs: Optional[str]
    decibels: Dict[str, float]
    corrected: List[str]
    note: str


class BackendDescription(TypedDict, total=False):
    """The runtime of an engine: its name and version, and what it needs to load the engine."""

    name: str
    version: str
    config: Dict[str, str]  # OpenVINO's
    fp8: bool  # for ONNX Runtime: the ONNX has Q/DQ pairs of FP8
    cpu_blocks: CpuBlocksEntry
    module: str
    compute_capabilities: List[str]  # the GPUs that TensorRT-RTX built for
    workspace_mib: int
    optimization_level: int
    version_compatible: bool
    hardware_compatible: bool
    dla: DlaEntry
    float32_layers: int  # that are constrained to FP32, on targets whose precision is by flags


class PrecisionReport(TypedDict):
    """The precision that was asked for and the one that was built, layer by layer."""

    asked: str
    built: Dict[str, int]
    convolutions: Dict[str, int]
    not_built: List[str]
    kept: Dict[str, str]
    source: str
    layers: List[Dict[str, str]]


class Manifest(TypedDict, total=False):
    """An engine folder's manifest.json. `files` are the SHA-256 of the folder's files."""

    format: int
    spec: Spec
    inputs: List[TensorDescription]
    outputs: List[TensorDescription]
    batch: Optional[List[int]]  # smallest, usual, largest
    precision: PrecisionReport
    target: str
    backend: BackendDescription
    engine: str
    files: Dict[str, str]
    versions: Dict[str, str]
    sources: Dict[str, str]
    warnings: List[str]
    traffic: TrafficEntry  # of a GPU's engine
    no_traffic: str  # the reason why a GPU's engine has none
    float_parts: FloatPartsEntry
    swish: SwishEntry
    fallback: FallbackEntry
    comparison: ComparisonEntry
