"""Swish as a polynomial, for engines in 8 and 16 bits on a CPU.

OpenVINO computes x * sigmoid(x) in the kernel of the convolution in front of it, with an exponential and a division for
each number; with AMX, whose products cost next to nothing, that is half of an INT8 EfficientDet-D0's time. Here

    swish(x) = max(x, 0) - h(|x|)        h(t) = t * sigmoid(-t) = t / (1 + e^t)

and h, which is 0 at 0, 0.28 at most and falls to nothing, is a polynomial up to an end, where it is 0, and 0 from there
on. It runs behind the convolution, in one kernel with the quantization (truncate.py). FINEST is by least squares, for
x of a normal distribution around 0 with standard deviations of 1, 2 and 4 together: the root of the mean square of what
it is off by is 0.0004, 0.0005 and 0.0011 for them, against 0.007 of the rounding where INT8 spreads 256 steps over 6.
It is off most where |x| is its end. (Degree 8 takes 4% longer and gains nothing.) Where 8 bits behind it are so
coarse that a tenth of their step is more than what a lower degree is off by, that one serves, with the least possible
largest error: degree 5 everywhere cost D0 0.05 AP.

Whether it is the faster one is for the CPU to say: `time_ratio` takes turns with both.
"""

from functools import partial
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from effedge.deploy.timing import interleaved_ratio
from effedge.deploy.timing.synthetic_inputs import made_up_array
from effedge.engines.openvino.graph import opset, sample_sizes
from effedge.engines.openvino.truncate import step_behind, truncate


class Fit(NamedTuple):
    """h(t) is the sum of the coefficients times t, t^2, ..., with t no more than `end`, but for `error` at most."""

    end: float
    coefficients: Tuple[float, ...]
    error: float


FINEST = Fit(
    7.0,
    (
        0.5071836387139825,
        -0.27430864292943785,
        0.02353499130937835,
        0.01682360544716857,
        -0.005387207045530297,
        0.0006280094675695407,
        -2.6613106663629136e-05,
    ),
    0.0064,
)
COARSER = (
    Fit(6.0, (0.48861007009956575, -0.2754601705322421, 0.053254593518033654, -0.0034807386742133637), 0.0078),
    Fit(
        7.25,
        (
            0.5244902633768281,
            -0.3301744996287874,
            0.08012322367927781,
            -0.008766962322785222,
            0.00036162367412355585,
        ),
        0.003,
    ),
)
SHARE = 0.1  # of a step of 8 bits
LEAST = -0.2785 - max(fit.error for fit in (FINEST, *COARSER))  # swish falls to that and no further
SMALLEST = 1 << 15
WORTH = 0.98  # how many times as long it may take at most to be taken


def use_polynomial(ov: Any, model: Any) -> int:
    """Put the polynomial in place of each swish of an OpenVINO model, and return how many there are.

    Left alone are those of few numbers (squeeze-and-excitation, the smallest levels of a pyramid): a kernel more gains
    next to nothing there, and costs every load of the engine some milliseconds. Half of D0's 102 swishes are such; by
    OpenVINO's profile they would save 0.1 of 20 ms.
    """
    found = 0
    quantizers = sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    for node in model.get_ordered_ops():
        source = swish_input(node)
        if source is None or is_small(node.output(0).get_partial_shape()):
            continue
        result = polynomial(opset(ov), source, node.get_friendly_name(), fit_for(step_behind(node)))
        node.output(0).replace(result.output(0))
        if quantizers > 1:  # without any OpenVINO takes the model for one that is not quantized
            quantizers -= truncate(opset(ov), result, least=LEAST)
        found += 1
    return found


def swish_input(node: Any) -> Optional[Any]:
    """x, where the operation is x * sigmoid(x); None for any other."""
    if node.get_type_name() == "Swish" and node.get_input_size() == 1:
        return node.input_value(0)
    if node.get_type_name() != "Multiply":
        return None
    for index in range(2):
        source, gate = node.input_value(index), node.input_value(1 - index).get_node()
        if gate.get_type_name() == "Sigmoid" and gate.input_value(0) == source:
            return source
    return None


def is_small(shape: Any) -> bool:
    """Whether a sample (all but the first dimension) has fewer than SMALLEST numbers; False where that is open."""
    sizes = sample_sizes(shape)
    return sizes is not None and int(np.prod(sizes)) < SMALLEST


def fit_for(step: Optional[float]) -> Fit:
    """The cheapest fit that 8 bits of this step do not tell from swish; the finest where there are none."""
    return next((fit for fit in COARSER if step is not None and fit.error <= SHARE * step), FINEST)


def polynomial(ops: Any, source: Any, name: str, fit: Fit = FINEST) -> Any:
    """The operations; the last one has the name. Multiplications and additions in turn, as a CPU fuses them."""
    distance = ops.minimum(ops.abs(source), ops.constant(np.float32(fit.end)))
    value = ops.constant(np.float32(-fit.coefficients[-1]))
    for coefficient in fit.coefficients[-2::-1]:
        value = ops.add(ops.multiply(value, distance), ops.constant(np.float32(-coefficient)))
    result = ops.add(ops.multiply(value, distance), ops.relu(source))
    result.set_friendly_name(name)
    return result


def time_ratio(first: Any, second: Any) -> Optional[float]:
    """How many times as long the first compiled model takes as the second.

    None where a dimension other than the batch is open, as then nobody knows what would be run.
    """
    feeds = made_up(first)
    if feeds is None:
        return None
    requests = [compiled.create_infer_request() for compiled in (first, second)]
    return interleaved_ratio.time_ratio(*(partial(request.infer, feeds) for request in requests))


def made_up(compiled: Any) -> Optional[Dict[int, np.ndarray]]:
    """An array for each input; an open batch is 1. None where another dimension is open."""
    feeds: Dict[int, np.ndarray] = {}
    for index, port in enumerate(compiled.inputs):
        shape = port.get_partial_shape()
        if sample_sizes(shape) is None:
            return None
        sizes = [1 if size.is_dynamic else size.get_length() for size in shape]
        feeds[index] = made_up_array(sizes, port.get_element_type().to_dtype())
    return feeds
