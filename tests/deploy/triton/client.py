"""Asks a Triton server for the results of image files, with NVIDIA's client: a script, as that is no package of ours.

    python client.py http|grpc ADDRESS MODEL CONCURRENT PARAMETERS < paths > results

Prints a JSON list, for each file in order the outputs by name, or its error as a text; then the model NAME-engine's
numbers of images and of executions.
"""

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

protocol, address, model, concurrent, parameters = sys.argv[1:]
library = importlib.import_module(f"tritonclient.{protocol}")
options = {"concurrency": int(concurrent)} if protocol == "http" else {}
client = library.InferenceServerClient(address, **options)


def tensor_of(path: str):
    if model.endswith("-file"):
        array = np.array([[Path(path).read_bytes()]], dtype=object)
        tensor = library.InferInput("image", array.shape, "BYTES")
    else:
        array = np.asarray(Image.open(path).convert("RGB"))[None]
        tensor = library.InferInput("image", array.shape, "UINT8")
    tensor.set_data_from_numpy(array)
    return tensor


def outputs_of(result) -> dict:
    response = result.get_response()
    described = response["outputs"] if protocol == "http" else response.outputs
    names = [each["name"] if protocol == "http" else each.name for each in described]
    arrays = {name: result.as_numpy(name) for name in names}
    return {
        name: np.char.decode(array.astype("S"), "utf-8").tolist() if array.dtype == object else array.tolist()
        for name, array in arrays.items()
    }


def ask(path: str):
    try:
        return outputs_of(client.infer(model, [tensor_of(path)], parameters=json.loads(parameters) or None))
    except library.InferenceServerException as error:
        return str(error)


def counts() -> dict:
    name = model.replace("-file", "") + "-engine"
    if protocol == "http":
        statistics = client.get_inference_statistics(name)["model_stats"][0]
        return {"images": statistics["inference_count"], "executions": statistics["execution_count"]}
    [statistics] = client.get_inference_statistics(name).model_stats
    return {"images": statistics.inference_count, "executions": statistics.execution_count}


paths = sys.stdin.read().splitlines()
if protocol == "http" and int(concurrent) > 1:  # the client is gevent's, which threads may not share
    parameters_or_none = json.loads(parameters) or None
    waiting = [client.async_infer(model, [tensor_of(path)], parameters=parameters_or_none) for path in paths]
    answers = [outputs_of(each.get_result()) for each in waiting]
else:
    with ThreadPoolExecutor(int(concurrent)) as pool:
        answers = list(pool.map(ask, paths)) if protocol == "grpc" else [ask(path) for path in paths]
print(json.dumps({"answers": answers, **counts()}))
