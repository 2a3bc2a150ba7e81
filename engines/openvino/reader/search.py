"""Finds the first operator that OpenVINO computes otherwise than ONNX Runtime.

The values between the operators of both runs are compared in the graph's order, some dozens at a time, in float32.
Where an operator's output is the first to differ, the operator alone is run on ONNX Runtime's values of its inputs:

- It differs there too: that is the operator.
- On OpenVINO's own values of its inputs it gives another output than within the graph: OpenVINO computes it otherwise
  where it fuses it with its neighbours.
- It is right: the difference came from rounding of its inputs, as where two scores are equal but for rounding and
  change places. Its output is set to ONNX Runtime's, and the search goes on behind it.

If no operator is left, the whole graph runs once more with these outputs set, which shows a fault that vanishes where
values between operators are looked at.
"""

import functools
from typing import Any, Dict, List, Mapping, NamedTuple, Set

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.engines.build_request import BuildRequest
from effedge.engines.comparison.nearness import decibels, nearness
from effedge.engines.comparison.reference import Reference
from effedge.engines.onnx_header import Node
from effedge.engines.openvino.graph import opset
from effedge.engines.openvino.reader.reading import values_by_name

CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
NODES_AT_A_TIME = 64  # whose outputs fit into the memory together
MOST_SET = 50  # operators behind which rounding made a difference; beyond that the search ends without a result


class Limits(NamedTuple):
    """Decibels from which on a value is right: of the whole graph, which then needs no search; between operators; of an
    operator alone; of the whole graph behind a search that found none."""

    whole: float
    between: float
    alone: float
    searched: float


FLOAT = Limits(60, 60, 60, 60)
INT8 = Limits(40, 30, 40, 20)  # a value next to the border of two steps may fall to either side
Arrays = Dict[str, np.ndarray]


class Found(NamedTuple):
    """The result of a search.

    Attributes:
        operator: such as "AveragePool 'pool1'"; empty if there is none.
        rounding: rounding made a difference somewhere that the outputs may show.
        together_right: without an operator, the whole graph is right but for `rounding`.
    """

    operator: str
    rounding: bool = False
    together_right: bool = False


class Search:
    """A search in an OpenVINO model, as it was read and corrected."""

    def __init__(self, ov: Any, core: Any, model: Any, request: BuildRequest) -> None:
        self.ov, self.core, self.model, self.request = ov, core, model, request
        self.limits = INT8 if request.precision == "int8" else FLOAT

    @functools.cached_property
    def held(self) -> Set[str]:
        """The names of all tensors of OpenVINO's graph, other than constants."""
        values = values_by_name(self.model)
        return {name for name, value in values.items() if value.get_node().get_type_name() != "Constant"}

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Found:
        """Searches on one set of inputs."""
        try:
            reference = Reference(self.request.onnx, self.request.onnx).run(feeds)
            if self.nearness(self.model, reference, dict(feeds)) >= self.limits.whole:
                return Found("", together_right=True)
            return self.search(reference, dict(feeds))
        except (RuntimeError, UserError):  # a part of the graph that one of the two does not run by itself
            return Found("")

    def nearness(self, model: Any, reference: Arrays, feeds: Arrays) -> float:
        """Returns the decibels of the output that is furthest from the reference's."""
        header = self.request.header
        return min(nearness(reference, self.run(model, feeds), header.spec, header.selected_outputs).values())

    def run(self, model: Any, feeds: Arrays) -> Arrays:
        """Compiles a model and runs it once; returns its outputs by all of their names."""
        compiled = self.core.compile_model(model, "CPU", CONFIG)
        known = {name for port in compiled.inputs for name in port.get_names()}
        results = compiled({name: array for name, array in feeds.items() if name in known})
        return {name: results[port] for port in compiled.outputs for name in port.get_names()}

    def search(self, outputs: Arrays, feeds: Arrays) -> Found:
        """Goes through the operators; see the module.

        Args:
            outputs: the reference's.
        """
        header, model = self.request.header, self.model.clone()
        nodes = [node for node in header.nodes if self.computed(node.outputs)]
        names = [name for node in nodes for name in self.computed(node.outputs)]
        reference = Reference(
            self.request.onnx, self.request.onnx, [name for name in dict.fromkeys(names) if name not in header.outputs]
        )
        start, are_set, inputs = 0, 0, dict(feeds)
        while start < len(nodes) and are_set <= MOST_SET:
            part = nodes[start : start + NODES_AT_A_TIME]
            index, expected = self.first_difference(model, part, reference, feeds, inputs)
            if index < 0:
                start += len(part)
                continue
            node = part[index]
            fault = self.fault(node, model, reference, feeds, inputs)
            if fault:
                return Found(fault)
            for name in self.computed(node.outputs):
                model = set_value(self.ov, model, name, expected[name])
                inputs[name] = expected[name]
            start, are_set = start + index + 1, are_set + 1
        right = are_set <= MOST_SET and self.nearness(model, outputs, inputs) >= self.limits.searched
        return Found("", rounding=are_set > 0, together_right=right)

    def computed(self, names: Any) -> List[str]:
        """Lists the tensors that OpenVINO's graph holds under these names, other than constants."""
        return [name for name in names if name in self.held]

    def first_difference(
        self, model: Any, part: List[Node], reference: Reference, feeds: Arrays, inputs: Arrays
    ) -> Any:
        """Returns the index of the first node whose output differs, -1 for none, and the reference's values."""
        names = [name for node in part for name in self.computed(node.outputs)]
        expected = reference.run(feeds, list(dict.fromkeys(names)))
        watched = model.clone()
        watched.add_outputs(list(expected))
        actual = self.run(watched, inputs)
        for index, node in enumerate(part):
            values = [decibels(expected[name], actual[name]) for name in self.computed(node.outputs)]
            if values and min(values) < self.limits.between:
                return index, expected
        return -1, expected

    def fault(self, node: Node, model: Any, reference: Reference, feeds: Arrays, inputs: Arrays) -> str:
        """Returns the name of an operator, whose output differs, if that is not because of rounding; else nothing."""
        name = f"{node.op} '{node.name or node.outputs[0]}'"
        names, outputs = self.computed(node.inputs), self.computed(node.outputs)
        between = [each for each in dict.fromkeys([*names, *outputs]) if each not in feeds]
        expected = {**feeds, **reference.run(feeds, between)}
        if self.nearness_alone(node, expected, expected) < self.limits.alone:
            return name
        # Rounding of the inputs makes the difference only if the operator alone makes it of the same inputs.
        watched = model.clone()
        watched.add_outputs([each for each in between if each not in inputs])
        actual = {**inputs, **self.run(watched, inputs)}
        vanishes = min(decibels(expected[each], actual[each]) for each in outputs) >= self.limits.between
        if vanishes or self.nearness_alone(node, actual, actual) < self.limits.alone:
            return f"{name}, together with operators around it,"
        return ""

    def nearness_alone(self, node: Node, values: Arrays, expected: Arrays) -> float:
        """Measures an operator's outputs on these values of its inputs, in decibels."""
        outputs, model, parameters = self.computed(node.outputs), self.model.clone(), []
        by_name = values_by_name(model)
        names = self.computed(dict.fromkeys(node.inputs))
        for name in names:
            parameter = opset(self.ov).parameter(list(values[name].shape), values[name].dtype.type)
            parameter.output(0).set_names({name})
            by_name[name].replace(parameter.output(0))
            parameters.append(parameter)
        results = [opset(self.ov).result(by_name[name]) for name in outputs]
        actual = self.run(self.ov.Model(results, parameters), {name: values[name] for name in names})
        return min(decibels(expected[name], actual.get(name, np.zeros(0))) for name in outputs)


def set_value(ov: Any, model: Any, name: str, array: np.ndarray) -> Any:
    """Returns the model with a tensor as an input of this name, in place of the operator that computed it."""
    parameter = opset(ov).parameter(list(array.shape), array.dtype.type)
    output = values_by_name(model)[name]
    names = output.get_names()
    output.replace(parameter.output(0))
    parameter.output(0).set_names(names)
    return ov.Model(model.get_results(), [*model.get_parameters(), parameter])
