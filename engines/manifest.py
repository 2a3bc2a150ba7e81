"""manifest.json, the page that makes a folder an engine: what it holds, what was asked, what was built, from what.

Written last, into the folder that is not yet in its place; deploy/runtime/manifest.py reads and checks it.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from effedge.deploy.common.files import sha256
from effedge.engines.onnx_header import DTYPES, Dims, Header

FORMAT = 1
NAME = "manifest.json"
UNKNOWN = "unknown"  # a precision that cannot be read
FRONT = (
    "front"  # the tactic of a layer that engines/openvino/cpu_blocks/choose.py took, in the precision that it has there
)


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
class Built:
    """What a builder made.

    Attributes:
        engine: the file that the runtime loads, in the engine's folder.
        backend: name, version, and what the runtime needs to load it.
        layers: every layer, with its precision.
        source: where the layers' precisions were read: "executed" (the runtime's own graph), "inspector" (TensorRT's,
            on the GPU that it is for), "plan" (convolutions from the plan's text where it names them, the rest from the
            typed network), "network" (the typed network only), "unknown" (TensorRT 8 without a GPU).
        warnings: the backend's own.
        swish: where there is a choice of its form: "form" ("exact" or "polynomial"), "error" (how far it is from swish
            at most), "ratio" (how many times as long the engine takes with the polynomial; None: not measured).
    """

    engine: str
    backend: Dict[str, Any]
    layers: List[Layer]
    source: str
    warnings: List[str] = field(default_factory=list)
    swish: Optional[Dict[str, Any]] = None

    @property
    def convolutions(self) -> Dict[str, int]:
        """Precision -> number of convolutions."""
        return dict(Counter(layer.precision for layer in self.layers if layer.is_convolution))


def write_manifest(
    folder: Path,
    built: Built,
    *,
    header: Header,
    asked: str,
    target: str,
    not_built: Sequence[str],
    versions: Mapping[str, str],
    sources: Mapping[str, Path],
) -> None:
    """Write manifest.json over the files that lie in `folder`.

    Args:
        header: of the ONNX that was built; its calibration's reasons for what is not in the precision are "kept".
        not_built: layers asked for in INT8 that are not.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME and path.suffix != ".log")
    manifest = {
        "format": FORMAT,
        "spec": header.spec,
        "inputs": describe(header.inputs),
        "outputs": describe(header.outputs),
        "batch": header.batch,
        "precision": {
            "asked": asked,
            "built": dict(Counter(layer.precision for layer in built.layers)),
            "convolutions": built.convolutions,
            "not_built": list(not_built),
            "kept": dict(header.float_layers),
            "source": built.source,
            "layers": [
                {key: value for key, value in asdict(one).items() if value or key != "tactic"} for one in built.layers
            ],
        },
        "target": target,
        "backend": built.backend,
        "engine": built.engine,
        "files": {path.name: sha256(path) for path in files},
        "versions": dict(versions),
        "sources": {role: sha256(path) for role, path in sources.items()},
        "warnings": built.warnings,
        **({} if built.swish is None else {"swish": built.swish}),
    }
    (folder / NAME).write_text(json.dumps(manifest, indent=1) + "\n")


def describe(tensors: Mapping[str, Tuple[int, Dims]]) -> List[Dict[str, Any]]:
    """Name, dtype and shape of each; a dynamic dimension is its name, an unknown shape None."""
    return [
        {"name": name, "dtype": DTYPES.get(element, f"ONNX type {element}"), "shape": dims}
        for name, (element, dims) in tensors.items()
    ]
