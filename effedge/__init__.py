"""Turns EfficientNets, EfficientDets and other CNNs in ONNX into engines for edge devices, and runs these engines.

>>> from effedge import Detector
>>> detector = Detector("build/d0-digits/int8-cpu")  # doctest: +SKIP
>>> for detections in detector(["a.jpg", "b.png"]):  # doctest: +SKIP
...     print(detections.boxes, detections.scores, detections.names)

The rooms `pipeline`, `calibration`, `engines` and `deploy` are the folders of that name at the top of the repository.
A name is imported when it is first used, so that `import effedge` waits neither for NumPy nor for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effedge.deploy.common.cli import UserError
    from effedge.deploy.runtime.classifier import Classifier
    from effedge.deploy.runtime.detector import Detections, Detector
    from effedge.deploy.runtime.runner import Runner
    from effedge.pipeline.models.create import create_model

__version__ = "0.1.0"
__all__ = ["Classifier", "Detections", "Detector", "Runner", "UserError", "__version__", "create_model"]

_MODULE_OF = {
    "Classifier": "effedge.deploy.runtime.classifier",
    "Detections": "effedge.deploy.runtime.detector",
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
