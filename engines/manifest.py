"""Writes manifest.json, the file that makes a folder an engine: its content, the request, the result, and the sources.

The manifest is written last, into a folder that is not yet in its final place; deploy/runtime/manifest.py reads and
checks it.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from effedge.deploy.common.contracts import (
    BackendDescription,
    ComparisonEntry,
    FallbackEntry,
    FloatPartsEntry,
    Manifest,
    SwishEntry,
    TensorDescription,
)
from effedge.deploy.common.files import sha256
from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import DTYPES, Dims
from effedge.engines.traffic import traffic_on

FORMAT = 1
NAME = "manifest.json"
UNKNOWN = "unknown"  # a precision that cannot be read
# The tactic of a layer that the C++ blocks compute (engines/openvino/cpu_blocks/choose.py), in the blocks' precision.
CPU_BLOCKS = "cpu_blocks"
MULTIPLYING = ("Convolution", "Deconvolution", "MatMul", "FullyConnected")  # OpenVINO's layers with weights


@dataclass(frozen=True)
class Layer:
    """A layer, the precision that it runs in (int8, f32, f16, bf16, i32, ...), and its kernel where that is known."""

    name: str
    type: str
    precision: str
    tactic: str = ""

    @property
    def is_convolution(self) -> bool:
        return self.type.lower() == "convolution"


@dataclass(frozen=True)
class BuiltEngine:
    """A builder's result.

    Attributes:
        engine: the file that the runtime loads, in the engine's folder.
        backend: name, version, and everything that the runtime needs to load the engine.
        layers: every layer, with its precision.
        source: where the layers' precisions were read: "executed" (the runtime's own graph), "inspector" (TensorRT's,
            on the GPU that the plan is for), "plan" (convolutions from the plan's text where it names them, the rest
            from the typed network), "network" (the typed network only), "unknown" (TensorRT 8 without a GPU).
        warnings: the backend's own.
        swish: its form; None where there was no choice.
        fallback: the reason why another ONNX was built than the one that was asked for; None where it was not.
        corrected: the operators that the backend's reader had read otherwise than ONNX defines them.
        run: runs the engine as built, from inputs by name to outputs by name; None where this machine cannot.
        search: finds the operator that the backend computes otherwise on inputs by name; None where it cannot.
        comparison: the manifest's entry; None before the engine was compared.
    """

    engine: str
    backend: BackendDescription
    layers: List[Layer]
    source: str
    warnings: List[str] = field(default_factory=list)
    float_parts: Optional[FloatPartsEntry] = None
    swish: Optional[SwishEntry] = None
    fallback: Optional[FallbackEntry] = None
    corrected: Sequence[str] = ()
    run: Optional[Callable[[Dict[str, Any]], Dict[str, Any]]] = None
    search: Optional[Callable[[Mapping[str, Any]], Any]] = None
    comparison: Optional[ComparisonEntry] = None

    @property
    def convolutions(self) -> Dict[str, int]:
        """The number of convolutions by precision."""
        return dict(Counter(layer.precision for layer in self.layers if layer.is_convolution))


def write_manifest(
    folder: Path,
    built: BuiltEngine,
    request: BuildRequest,
    *,
    not_built: Sequence[str],
    versions: Mapping[str, str],
) -> None:
    """Writes manifest.json over the files in `folder`. Its "kept" has the calibration's reasons for the layers that are
    not in the precision.

    Args:
        not_built: layers that were asked for in the precision, and were built in another.
        versions: of the packages that built the engine, by name.
    """
    header = request.header
    present = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    files = [path for path in present if path != folder / NAME]  # an ONNX's weights may be in folders of their own
    manifest: Manifest = {
        "format": FORMAT,
        "spec": header.spec,
        "inputs": describe_tensors(header.inputs),
        "outputs": describe_tensors(header.outputs),
        "batch": None if header.batch is None else list(header.batch),
        "precision": {
            "asked": request.precision,
            "built": dict(Counter(layer.precision for layer in built.layers)),
            "convolutions": built.convolutions,
            "not_built": list(not_built),
            "kept": dict(header.float_layers),
            "source": built.source,
            "layers": [describe_layer(layer) for layer in built.layers],
        },
        "target": request.target.name,
        "backend": built.backend,
        "engine": built.engine,
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
        "versions": dict(versions),
        "sources": {"onnx": sha256(request.onnx)},
        "warnings": built.warnings,
    }
    counted, reason = traffic_on(request.target, header, request.precision, request.build_options.dla)
    if counted is not None:
        manifest["traffic"] = counted
    elif reason:
        manifest["no_traffic"] = reason
    if built.float_parts is not None:
        manifest["float_parts"] = built.float_parts
    if built.swish is not None:
        manifest["swish"] = built.swish
    if built.fallback is not None:
        manifest["fallback"] = built.fallback
    if built.comparison is not None:
        manifest["comparison"] = built.comparison
    (folder / NAME).write_text(json.dumps(manifest, indent=1) + "\n")


def describe_layer(layer: Layer) -> Dict[str, str]:
    """Returns the layer's fields, without an empty tactic."""
    return {key: value for key, value in asdict(layer).items() if value or key != "tactic"}


def describe_tensors(tensors: Mapping[str, Tuple[int, Dims]]) -> List[TensorDescription]:
    """Lists each tensor's name, dtype and shape; a dynamic dimension is its name, an unknown shape None."""
    return [
        {
            "name": name,
            "dtype": DTYPES.get(element, f"ONNX type {element}"),
            "shape": None if dims is None else list(dims),
        }
        for name, (element, dims) in tensors.items()
    ]
