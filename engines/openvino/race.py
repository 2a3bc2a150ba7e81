"""Races two forms of a model that OpenVINO has compiled for latency."""

from functools import partial
from typing import Any, Dict, Optional

import numpy as np

from effedge.deploy.timing import comparison
from effedge.deploy.timing.synthetic_inputs import synthetic_array
from effedge.engines.openvino.graph import sizes_behind_batch


def compile_for_latency(core: Any, model: Any, config: Dict[str, str]) -> Any:
    """Compiles a model as an engine for latency runs it."""
    return core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **config})


def time_ratio(first: Any, second: Any) -> Optional[float]:
    """Measures the first compiled model's latency over the second's; None where `synthetic_inputs` has none."""
    feeds = synthetic_inputs(first)
    if feeds is None:
        return None
    requests = [compiled.create_infer_request() for compiled in (first, second)]
    return comparison.time_ratio(*(partial(request.infer, feeds) for request in requests))


def synthetic_inputs(compiled: Any) -> Optional[Dict[int, np.ndarray]]:
    """Makes an array for each input, with 1 for a dynamic batch. None where another dimension is dynamic, because the
    sizes of real inputs are then unknown."""
    feeds: Dict[int, np.ndarray] = {}
    for index, port in enumerate(compiled.inputs):
        shape = port.get_partial_shape()
        if sizes_behind_batch(shape) is None:
            return None
        sizes = [1 if size.is_dynamic else size.get_length() for size in shape]
        feeds[index] = synthetic_array(sizes, port.get_element_type().to_dtype())
    return feeds
