"""The runtime: what goes to the device. Python 3.8, NumPy, Pillow 9.1 (10.1 to draw), or later; the engine's backend.

>>> from deploy import Detector
>>> detector = Detector("build/d0-digits/int8-cpu")  # doctest: +SKIP
>>> for detections in detector(["a.jpg", "b.png"]):  # doctest: +SKIP
...     print(detections.boxes, detections.scores, detections.names)

Runner is for engines of anybody's ONNX: arrays in, arrays out. The classes are imported on first use, so that a
script's --help does not wait for NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.classifier import Classifier
    from deploy.detector import Detector
    from deploy.runner import Runner

__all__ = ["Classifier", "Detector", "Runner"]


def __getattr__(name: str) -> Any:
    if name == "Detector":
        from deploy.detector import Detector

        return Detector
    if name == "Classifier":
        from deploy.classifier import Classifier

        return Classifier
    if name == "Runner":
        from deploy.runner import Runner

        return Runner
    raise AttributeError(f"module 'deploy' has no attribute '{name}'")
