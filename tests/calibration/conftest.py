"""Small models for the tests of calibration/."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.ranges.samples import Samples
from effedge.deploy.runtime.onnxruntime_backend import make_session
from tests.calibration import networks


@pytest.fixture
def load() -> Callable[[networks.Network], ir.Model]:
    """A Network as onnx_file.load would give it."""
    return lambda net: onnx_file.prepare(ir.from_proto(net.proto()))


@pytest.fixture
def samples() -> Samples:
    """Twelve random images for classifier() and detector()."""
    return networks.as_samples(networks.feeds(12))


@pytest.fixture
def run_ort() -> Callable[..., list[np.ndarray]]:
    """run_ort(model, feeds, optimized=True): ONNX Runtime's outputs of a model as it would be saved."""
    import onnxruntime

    def run(model: ir.Model, feed: dict[str, np.ndarray], optimized: bool = True) -> list[np.ndarray]:
        def new_options() -> onnxruntime.SessionOptions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            if not optimized:
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            return options

        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        return make_session(proto.SerializeToString(), new_options, fp8=False).run(None, feed)

    return run


@pytest.fixture
def run_openvino() -> Callable[..., list[np.ndarray]]:
    """run_openvino(model, feeds): OpenVINO's outputs in float32 arithmetic where the graph does not say INT8."""
    import openvino

    from effedge.deploy.runtime.openvino_int8_sums import narrow_weights, saturates

    def run(model: ir.Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        core = openvino.Core()
        read = core.read_model(ir.to_proto(model).SerializeToString())
        if saturates():
            narrow_weights(read)
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
        return [np.array(array) for array in compiled(feed).values()]

    return run


@pytest.fixture
def build_rtx() -> Callable[[ir.Model], bytes]:
    """build_rtx(model): the plan that TensorRT-RTX builds of it, strongly typed; fails the test where it does not."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (the extra 'rtx')")

    def build(model: ir.Model) -> bytes:
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(ir.to_proto(model).SerializeToString()):
            pytest.fail("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        assert plan is not None, "TensorRT-RTX built no plan"
        return bytes(plan)

    return build
