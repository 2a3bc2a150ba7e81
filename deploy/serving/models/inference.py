"""Describes served models in KServe's v2 protocol, and answers its inference requests.

A detector takes `image`: UINT8 [N,h,w,3], RGB, images of one size, any; or BYTES [N], files, as binary data. It gives,
of N images with at most M detections each:

    num_detections  INT32 [N]
    boxes           FP32  [N,M,4]  xyxy in the image's pixels; 0 behind an image's last detection
    scores          FP32  [N,M]    0 behind it
    classes         INT32 [N,M]    -1 behind it
    labels          BYTES [N,M]    "" behind it

A classifier gives scores, classes and labels, [N,K], best first. An engine that takes arrays has its own inputs and
outputs.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from effedge.deploy.image.classification import Classification
from effedge.deploy.image.detections import Detections
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.runner import Tensor
from effedge.deploy.serving.models.array_model import ArrayModel
from effedge.deploy.serving.models.image_model import Answer, Call, ImageModel, Times
from effedge.deploy.serving.models.load import ServedModel
from effedge.deploy.serving.refusal import Refusal
from effedge.deploy.serving.v2_protocol import DATATYPES, Request

INPUT = "image"
# Names of the protocol's section "Platforms" where there is one.
PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnx_onnxv1", "openvino": "openvino_ir"}
CLASSES = [("scores", "FP32"), ("classes", "INT32"), ("labels", "BYTES")]


def metadata(model: ServedModel, backend: str) -> Dict[str, Any]:
    """Makes the model metadata response; `backend` is the manifest's name of the runtime."""
    content: Dict[str, Any] = {"name": model.name, "platform": PLATFORMS.get(backend, f"{backend}_engine")}
    if isinstance(model, ArrayModel):
        return {
            **content,
            "inputs": [described(tensor) for tensor in model.runner.inputs],
            "outputs": [described(tensor) for tensor in model.runner.outputs],
        }
    content["inputs"] = [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    outputs = [{"name": name, "datatype": datatype, "shape": [-1, -1]} for name, datatype in CLASSES]
    if not isinstance(model.model, Classifier):
        outputs.insert(0, {"name": "boxes", "datatype": "FP32", "shape": [-1, -1, 4]})
        outputs.insert(0, {"name": "num_detections", "datatype": "INT32", "shape": [-1]})
    return {**content, "outputs": outputs}


def described(tensor: Tensor) -> Dict[str, Any]:
    """Describes an input or output of an engine that takes arrays; a shape of unknown rank is []."""
    shape = [] if tensor.shape is None else [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "datatype": DATATYPES.get(tensor.dtype, tensor.dtype.upper()), "shape": shape}


def infer(model: ServedModel, request: Request, call: Call) -> Tuple[Dict[str, np.ndarray], List[Times]]:
    """Computes a model's outputs for a request, and the milliseconds of the steps of each image.

    Raises Refusal (400) for inputs and parameters that the model does not take.
    """
    if isinstance(model, ArrayModel):
        if request.parameters:
            raise Refusal(400, f"parameter '{next(iter(request.parameters)):.40}' was given, the model has none")
        times: Times = {}
        return model.answer(request.inputs, call, times), [times]
    sources = images_of(model, request.inputs)
    answers = model.answers(sources, request.parameters, call)
    return outputs_of(answers), [answer.times for answer in answers]


def images_of(model: ImageModel, inputs: Dict[str, np.ndarray]) -> Sequence[Union[bytes, np.ndarray]]:
    """Returns the images of a request. Raises Refusal for other inputs than one tensor of images."""
    if set(inputs) != {INPUT}:
        raise Refusal(400, f"inputs {str(sorted(inputs)):.80} were given, expected ['{INPUT}']")
    array = inputs[INPUT]
    as_files = array.dtype == object and array.ndim == 1
    as_pixels = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
    most = model.engine.max_batch
    if not (as_files or as_pixels) or not 1 <= len(array) <= most:
        datatype = DATATYPES.get(array.dtype.name, array.dtype.name)
        raise Refusal(
            400, f"input '{INPUT}' is {datatype} {list(array.shape)}, expected UINT8 [N,h,w,3] or BYTES [N], "
            f"N {'1' if most == 1 else f'from 1 to {most}'}"
        )  # fmt: skip
    return list(array)


def outputs_of(answers: Sequence[Answer]) -> Dict[str, np.ndarray]:
    """Collects the results of images to the outputs of this module's docstring."""
    results = [answer.result for answer in answers]
    most = max(len(result) for result in results)
    outputs = {
        "scores": padded(results, "scores", np.float32, most),
        "classes": padded(results, "classes", np.int32, most, -1),
        "labels": padded(results, "labels", object, most, ""),
    }
    if isinstance(results[0], Classification):
        return outputs
    boxes = padded(results, "boxes", np.float32, most)
    return {"num_detections": np.array([len(result) for result in results], np.int32), "boxes": boxes, **outputs}


def padded(
    results: Sequence[Union[Detections, Classification]], name: str, dtype: Any, most: int, fill: Optional[Any] = 0
) -> np.ndarray:
    """Stacks an attribute of results of different lengths, filled up to `most`."""
    rest = (4,) if name == "boxes" else ()
    array = np.full((len(results), most, *rest), fill, dtype)
    for row, result in enumerate(results):
        array[row, : len(result)] = getattr(result, name)
    return array
