"""Replaces swish by a polynomial, for engines in 8 and 16 bits on a CPU.

OpenVINO computes x * sigmoid(x) in the kernel of the convolution in front of it, with an exponential and a division for
each number; with AMX, whose matrix products cost next to nothing, that is half of an INT8 EfficientDet-D0's time. Here

    swish(x) = max(x, 0) - h(|x|)        h(t) = t * sigmoid(-t) = t / (1 + e^t)

h is 0 at 0, 0.28 at most, and falls to 0. It is approximated by a polynomial from 0 to an end, at which the polynomial
is 0, and by 0 from there on. The polynomial runs behind the convolution, in one kernel with the quantization
(truncate.py).

FINEST is a least-squares fit, for x of a normal distribution around 0 with standard deviations of 1, 2 and 4 together.
Its root-mean-square error is 0.0004, 0.0005 and 0.0011 for these deviations, against 0.007 of rounding where INT8
spreads 256 steps over 6. Its error is largest where |x| is at the end. (Degree 8 takes 4% longer and gains nothing.)

Where a quantization to 8 bits follows whose step is so coarse that a tenth of it exceeds the largest error of a lower
degree, that degree serves (COARSER). Those fits have the least possible largest error (minimax). Degree 5 everywhere
cost D0 0.05 AP.

Which form is faster depends on the CPU: race.py runs both alternately.
"""

from typing import Any, NamedTuple, Optional, Tuple

import numpy as np

from effedge.engines.openvino.graph import opset, sizes_behind_batch
from effedge.engines.openvino.truncate import step_behind, truncate


class Fit(NamedTuple):
    """An approximation of h(t): the sum of the coefficients times t, t^2, ..., with t clamped to `end`; its largest
    error is `error`."""

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
STEP_SHARE = 0.1  # of a step of 8 bits: an error below it is hidden by the rounding
LEAST = -0.2785 - max(fit.error for fit in (FINEST, *COARSER))  # a lower bound of swish and of its fits
LEAST_NUMBERS = 1 << 15  # of a sample; a smaller swish stays exact
WORTHWHILE_RATIO = 0.98  # the highest ratio of latencies at which the polynomial is taken


def use_polynomial(ov: Any, model: Any) -> int:
    """Replaces each large swish of an OpenVINO model by the polynomial, in place, and returns how many there are.

    A small swish (squeeze-and-excite, the smallest levels of a pyramid) stays exact: another kernel gains next to
    nothing there, and costs each load of the engine some milliseconds. Half of D0's 102 swishes are small; by
    OpenVINO's profile, replacing them would save 0.1 of 20 ms.
    """
    replaced = 0
    quantizers = sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    for node in model.get_ordered_ops():
        source = swish_input(node)
        if source is None or is_small(node.output(0).get_partial_shape()):
            continue
        result = polynomial(opset(ov), source, node.get_friendly_name(), fit_for(step_behind(node)))
        node.output(0).replace(result.output(0))
        if quantizers > 1:  # one must stay: without any, OpenVINO does not treat the model as quantized
            quantizers -= truncate(opset(ov), result, least=LEAST)
        replaced += 1
    return replaced


def swish_input(node: Any) -> Optional[Any]:
    """Returns x if the operation is x * sigmoid(x); None for every other operation."""
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
    """Tells if a sample (all dimensions but the first) has fewer than LEAST_NUMBERS numbers; False where a dimension is
    dynamic."""
    sizes = sizes_behind_batch(shape)
    return sizes is not None and int(np.prod(sizes)) < LEAST_NUMBERS


def fit_for(step: Optional[float]) -> Fit:
    """Returns the cheapest fit whose error a quantization to 8 bits of this step hides; FINEST for a step of None."""
    return next((fit for fit in COARSER if step is not None and fit.error <= STEP_SHARE * step), FINEST)


def polynomial(ops: Any, source: Any, name: str, fit: Fit = FINEST) -> Any:
    """Makes the polynomial's operations and returns the last one, which gets the name. Multiplications and additions
    alternate, because a CPU fuses such pairs."""
    distance = ops.minimum(ops.abs(source), ops.constant(np.float32(fit.end)))
    value = ops.constant(np.float32(-fit.coefficients[-1]))
    for coefficient in fit.coefficients[-2::-1]:
        value = ops.add(ops.multiply(value, distance), ops.constant(np.float32(-coefficient)))
    result = ops.add(ops.multiply(value, distance), ops.relu(source))
    result.set_friendly_name(name)
    return result
