"""Turns EfficientNets, EfficientDets and other CNNs in ONNX into engines for edge devices, and runs these engines.

>>> from effedge import Detector
>>> detector = Detector("build/d0-digits/int8-cpu")
>>> detector("photo.png")
2 detections
  7 0.90 at 40,20 to 120,100
  3 0.70 at 160,60 to 256,128

The rooms `pipeline`, `calibration`, `engines` and `deploy` are the folders of that name at the top of the repository.
A name is imported when it is first used, so that `import effedge` waits neither for NumPy nor for PyTorch.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effedge.deploy.common.cli import UserError
    from effedge.deploy.image.classification import Classification
    from effedge.deploy.image.detections import Detections
    from effedge.deploy.runtime.classifier import Classifier
    from effedge.deploy.runtime.detector import Detector
    from effedge.deploy.runtime.runner import Runner
    from effedge.pipeline.models.create import create_model

# Telemetry is off, before anything imports these packages: OpenVINO's looks up a host on the internet and writes an id
# to the home, ONNX Runtime's (from 1.29) keeps a device's id and events there. A user's own setting stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed

__version__ = "0.1.0"
__all__ = [
    "Classification", "Classifier", "Detections", "Detector", "Runner", "UserError", "__version__", "create_model",
]  # fmt: skip

_MODULE_OF = {
    "Classification": "effedge.deploy.image.classification",
    "Classifier": "effedge.deploy.runtime.classifier",
    "Detections": "effedge.deploy.image.detections",
    "Detector": "effedge.deploy.runtime.detector",
    "Runner": "effedge.deploy.runtime.runner",
    "UserError": "effedge.deploy.common.cli",
    "create_model": "effedge.pipeline.models.create",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'effedge' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
