"""Selects the results of an engine, as a model of Triton's Python backend: the last step of an ensemble.

From the engine's outputs and `geometry` (prepare_images.py) to detections in each image's own pixels, or the best
classes, in the outputs that effedge.deploy.serving.models.inference describes; `num_detections` is [N,1].

The parameters of the model's configuration, and before them those of a request, are the options of Detector
(threshold, iou, max_detections, classes, class_agnostic) or Classifier (top).
"""

from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.preprocess import Prepared
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.selection import Selection
from effedge.deploy.serving.models.image_model import Answer
from effedge.deploy.serving.models.inference import outputs_of
from effedge.deploy.serving.models.selections import Model, with_options
from effedge.deploy.serving.refusal import Refusal
from effedge.deploy.triton.configs import GEOMETRY
from effedge.deploy.triton.python_backend import (
    DescribedEngine,
    answer,
    arrays_of,
    described_engine,
    options_of,
    parameters_of,
    refusal,
)


class DetectionSelector(Detector):
    """A detector whose engine is another model."""

    def __init__(self, engine: DescribedEngine) -> None:
        self.set_engine(engine, Selection())


class ClassSelector(Classifier):
    """A classifier whose engine is another model."""

    def __init__(self, engine: DescribedEngine) -> None:
        self.engine = engine


class TritonPythonModel:
    """The step behind the engine."""

    def initialize(self, args: Mapping[str, str]) -> None:
        engine, options = described_engine(args), options_of(args)
        model = ClassSelector(engine) if engine.task == "classification" else DetectionSelector(engine)
        self.model = with_options(model, options)

    def execute(self, requests: Sequence[Any]) -> List[Any]:
        """Answers requests, each with the options that it asks for."""
        return [self.response(arrays_of(request), parameters_of(request)) for request in requests]

    def response(self, arrays: Dict[str, np.ndarray], parameters: Mapping[str, Any]) -> Any:
        """Selects the results of one request's images."""
        try:
            return answer(select(with_options(self.model, parameters), arrays))
        except (UserError, Refusal) as error:
            return refusal(error)


def select(model: Model, arrays: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Selects the results of images from the engine's outputs, [N,...] each, and their `geometry`."""
    answers = []
    for row, geometry in enumerate(arrays[GEOMETRY].tolist()):
        prepared = Prepared(np.empty((0, 0, 3), np.uint8), tuple(geometry[:2]), tuple(geometry[2:]))
        outputs = {name: array[row] for name, array in arrays.items() if name != GEOMETRY}
        answers.append(Answer(model.finish(prepared, outputs), {}))
    results = outputs_of(answers)
    if "num_detections" in results:
        results["num_detections"] = results["num_detections"][:, None]
    return results
