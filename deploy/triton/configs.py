"""Makes the model configurations of a repository: of an engine, of the steps around it, and of the ensembles.

Names of messages and fields are those of model_config.proto (triton-inference-server/common).
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest, TensorDescription
from effedge.deploy.serving.v2_protocol import DATATYPES
from effedge.deploy.triton.config_text import Message, Word, entries

# Triton's backends that may run an engine, by the engine's runtime; the first is the default. "python" is effedge's own
# runtime in Triton's Python backend, and gives exactly the results of effedge. Triton's OpenVINO backend is left out:
# it has its own version of OpenVINO, and the engine was built and tested with another. TensorRT's cannot read plans of
# TensorRT-RTX.
SERVED_BY: Dict[str, Sequence[str]] = {
    "tensorrt": ("tensorrt", "python"),
    "tensorrt_rtx": ("python",),
    "onnxruntime": ("python", "onnxruntime"),
    "openvino": ("python",),
}
ON_GPU = ("tensorrt", "tensorrt_rtx")
PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
MODEL_FILES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}
IMAGES_AT_ONCE = 16  # that one execution of a step around the engine takes, as they are computed by several threads
IMAGE, PIXELS, GEOMETRY = "image", "pixels", "geometry"
LABELS = "labels.txt"
Shape = List[int]  # -1: any


class Served(NamedTuple):
    """An engine as it is to be served.

    folder: of the engine.
    name: of its model in Triton, and the first part of the names of the steps around it.
    backend: Triton's, a value of SERVED_BY.
    instances: the number of instances of the engine (on each GPU).
    queue_us: the time in which a batch is filled, in microseconds.
    """

    folder: Path
    name: str
    manifest: Manifest
    backend: str
    instances: int
    queue_us: int

    @property
    def task(self) -> Optional[str]:
        """Returns the task; None for an engine of arrays, which has no steps around it."""
        return self.manifest["spec"].get("task")

    @property
    def on_gpu(self) -> bool:
        return self.manifest["backend"]["name"] in ON_GPU


def engine_config(served: Served, name: str) -> Message:
    """Makes the configuration of the engine itself.

    Raises UserError for an engine that Triton's backend cannot serve.
    """
    manifest = served.manifest
    batch = batch_of(manifest)
    if batch is not None and batch[0] > 1 and served.backend != "python":
        raise UserError(
            f"'{served.folder}' takes no fewer than {batch[0]} images, but Triton forms batches from 1 on: build it "
            f"with BATCH=1:{batch[1]}:{batch[2]}, or serve it by --backend python, which fills batches up"
        )
    most = 0 if batch is None else batch[2]
    if served.backend == "onnxruntime" and isinstance(manifest["inputs"][0]["shape"], list):
        # Triton's ONNX Runtime backend batches dynamic dimensions only, TensorRT's a fixed one of 1 too.
        most = most if batch is not None and isinstance(first_of(manifest["inputs"][0]), str) else 0
    outputs = [tensor_config(served, tensor, most) for tensor in manifest["outputs"]]
    if served.task == "classification":
        outputs[0]["label_filename"] = LABELS  # logits; a client may ask for its best classes
    preferred = [batch[1]] if batch is not None and 1 < batch[1] < batch[2] else []
    return {
        "name": name,
        **({"backend": "python"} if served.backend == "python" else {"platform": PLATFORMS[served.backend]}),
        "max_batch_size": most,
        "input": [tensor_config(served, tensor, most) for tensor in manifest["inputs"]],
        "output": outputs,
        "instance_group": [instance_group(served)],
        "dynamic_batching": (
            {"preferred_batch_size": preferred, "max_queue_delay_microseconds": served.queue_us} if most > 1 else None
        ),
    }


def first_of(tensor: TensorDescription) -> Union[int, str, None]:
    """Returns a tensor's first dimension; None where it has none."""
    return tensor["shape"][0] if tensor["shape"] else None


def batch_of(manifest: Manifest) -> Optional[List[int]]:
    """Returns the smallest, usual and largest batch of an engine; None where a tensor has no dimension for it."""
    batch = manifest.get("batch")
    firsts = [first_of(tensor) for tensor in [*manifest["inputs"], *manifest["outputs"]]]
    fits = batch is not None and all(isinstance(first, str) or first == batch[2] for first in firsts)
    return batch if fits else None


def instance_group(served: Served) -> Message:
    """Makes the group of the engine's instances: of a plan on every GPU, of a Python process on the first."""
    if not served.on_gpu:
        return {"count": served.instances, "kind": Word("KIND_CPU")}
    dla = served.manifest["backend"].get("dla")
    group: Dict[str, Any] = {"count": served.instances, "kind": Word("KIND_GPU")}
    if served.backend == "python":
        group["gpus"] = [0]
    elif dla is not None:
        group["secondary_devices"] = [{"kind": Word("KIND_NVDLA"), "device_id": dla["core"]}]
    return group


def tensor_config(served: Served, tensor: TensorDescription, max_batch_size: int) -> Dict[str, Any]:
    """Makes the entry of an engine's input or output. Raises UserError for a type or shape that Triton has not."""
    datatype, shape = DATATYPES.get(tensor["dtype"]), tensor["shape"]
    if datatype is None or datatype == "BYTES" or not shape:
        problem = tensor["dtype"] if shape else "of unknown rank" if shape is None else "a number without a shape"
        raise UserError(
            f"'{served.folder}' cannot be served by Triton: its tensor '{tensor['name']}' is {problem}, expected a "
            "shape of one dimension or more, and a type that NumPy has"
        )
    dims = [size if isinstance(size, int) else -1 for size in shape[1 if max_batch_size else 0 :]]
    return tensor_entry(tensor["name"], datatype, dims)


def tensor_entry(name: str, datatype: str, dims: Shape) -> Dict[str, Any]:
    """Makes the entry of an input or output. Triton has no empty dims, but may drop a dimension of 1 for the model."""
    kind = Word("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")
    if not dims:
        return {"name": name, "data_type": kind, "dims": [1], "reshape": {}}
    return {"name": name, "data_type": kind, "dims": dims}


def step_config(name: str, inputs: List[Message], outputs: List[Message], most: int, options: Message) -> Message:
    """Makes the configuration of a step before or after the engine; `most` is the ensemble's largest batch."""
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": max(most, IMAGES_AT_ONCE),
        "input": inputs,
        "output": outputs,
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
        "parameters": entries({key: {"string_value": str(value)} for key, value in options.items()}),
    }


def image_input(as_file: bool) -> Message:
    """Makes the entry of the input of images: a file's bytes, or RGB [h,w,3] of any size."""
    return tensor_entry(IMAGE, "BYTES", [1]) if as_file else tensor_entry(IMAGE, "UINT8", [-1, -1, 3])


def prepared_outputs(served: Served) -> List[Message]:
    """Makes the entries of an image made ready for the engine: its pixels, and both sizes of its `Prepared`."""
    height, width = served.manifest["spec"]["input"]["size"]
    return [tensor_entry(PIXELS, "UINT8", [height, width, 3]), tensor_entry(GEOMETRY, "INT32", [4])]


def engine_outputs(served: Served) -> List[Message]:
    """Makes the entries of the engine's outputs as the step behind it takes them."""
    most = served.manifest["spec"]["input"]["batch"][2]
    return [tensor_config(served, tensor, most) for tensor in served.manifest["outputs"]]


def result_outputs(served: Served) -> List[Message]:
    """Makes the entries of the results, which are those of `effedge serve`
    (effedge.deploy.serving.models.inference)."""
    classes: List[Message] = [tensor_entry(name, kind, [-1]) for name, kind in
               (("scores", "FP32"), ("classes", "INT32"), ("labels", "BYTES"))]  # fmt: skip
    if served.task == "classification":
        return classes
    return [tensor_entry("num_detections", "INT32", [1]), tensor_entry("boxes", "FP32", [-1, 4]), *classes]


def ensemble_config(served: Served, name: str, steps: Sequence[str], as_file: bool) -> Message:
    """Makes the configuration of an ensemble; `steps` are the names of its three models."""
    results = {output["name"]: output["name"] for output in result_outputs(served)}
    # The tensors between the steps have names of their own: an engine's and a result's may be the same.
    raw = {output["name"]: f"engine_{output['name']}" for output in engine_outputs(served)}
    prepared, engine, selected = steps
    maps = [
        (prepared, {IMAGE: IMAGE}, {PIXELS: PIXELS, GEOMETRY: GEOMETRY}),
        (engine, {served.manifest["inputs"][0]["name"]: PIXELS}, raw),
        (selected, {GEOMETRY: GEOMETRY, **raw}, results),
    ]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": served.manifest["spec"]["input"]["batch"][2],
        "input": [image_input(as_file)],
        "output": result_outputs(served),
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": model,
                    "model_version": -1,
                    "input_map": entries(inputs),
                    "output_map": entries(outputs),
                }
                for model, inputs, outputs in maps
            ]
        },
    }
