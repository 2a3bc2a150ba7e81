"""Graphs of a few nodes, and ONNX Runtime to run them."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)


def noise(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def make(nodes, inputs, outputs, constants=None, opset=18, types=None):
    """A model as the passes take it.

    Args:
        nodes: (operator, inputs, outputs, attributes) each; lists of names.
        inputs, outputs: shape by name, None for an unknown one.
        constants: array by name.
        types: of inputs and outputs that are not float32.
    """
    types = types or {}
    made = [helper.make_node(op, ins, outs, name=outs[0], **attributes) for op, ins, outs, attributes in nodes]
    graph = helper.make_graph(
        made,
        "tiny",
        *(
            [
                helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)
                for name, shape in ends.items()
            ]
            for ends in (inputs, outputs)
        ),
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model, **feeds):
    """ONNX Runtime's outputs of a model, unoptimized."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_same(before, after):
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def kinds(model):
    return [node.op_type for node in model.graph]


def node_of(model, kind):
    return next(node for node in model.graph if node.op_type == kind)
