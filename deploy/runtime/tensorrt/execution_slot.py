"""An execution slot: what one run of a TensorRT engine occupies at a time. Untested with TensorRT on a GPU."""

from typing import TYPE_CHECKING, Any, Callable, Dict, Hashable, Mapping, Optional, Tuple

if TYPE_CHECKING:
    import tensorrt as trt

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.tensorrt.api import as_shape, check_capturable
from effedge.deploy.runtime.tensorrt.gpu import CudaError, Gpu, Graph
from effedge.deploy.runtime.tensorrt.log import TensorRTLogger

# By TensorRT's name of a type: trt.nptype would do, but fails beside NumPy 1.24 or later in TensorRT 8.
TYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64,
    "BOOL": np.bool_,
}  # fmt: skip


class ExecutionSlot:
    """An execution context, its stream, its buffers for the largest inputs, and a CUDA graph.

    The first run of a shape enqueues each step, because TensorRT then prepares itself for the shape, which must not be
    recorded. The second run records what is enqueued, and from then on a run is one launch. Images whose sizes always
    differ are never recorded, and so cost nothing more.

    Attributes:
        types: of the tensors in NumPy, by name.
        after_first_run: called after the first run of a shape: TensorRT may have compiled something.
    """

    def __init__(
        self,
        module: Any,
        gpu: Gpu,
        engine: "trt.ICudaEngine",
        context: "trt.IExecutionContext",
        logger: TensorRTLogger,
    ) -> None:
        """Allocates the buffers. `module` is tensorrt or tensorrt_rtx."""
        self.gpu, self.engine, self.context, self.logger = gpu, engine, context, logger
        self.stream = gpu.stream()
        self.after_first_run: Callable[[], None] = lambda: None
        self.last_key: Optional[Hashable] = None  # of the shapes and buffers of the last run
        self.graph: Optional[Graph] = None
        self.can_record = True  # until TensorRT refuses
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == module.TensorIOMode.INPUT for name in names}
        largest = {name: self.largest_shape(name) for name in names if is_input[name]}
        for name, shape in largest.items():
            self.set_shape(name, shape)
        self.types = {name: self.dtype(name) for name in names}
        # The GPU reads an input once, but may read an output again: so no output is left in the host's memory.
        self.inputs = {name: gpu.buffer(self.size(name)) for name in names if is_input[name]}
        self.outputs = {name: gpu.result_buffer(self.size(name)) for name in names if not is_input[name]}
        for name, buffer in self.outputs.items():
            context.set_tensor_address(name, buffer.address)

    def set_shape(self, name: str, shape: Tuple[int, ...]) -> None:
        """Sets an input's shape for the runs that follow. Raises UserError for one that the plan was not built for."""
        if not self.context.set_input_shape(name, shape):
            raise UserError(
                f"'{self.gpu.path}' does not take input '{name}' of shape {list(shape)} ({self.logger.reason()}): "
                "build the engine for it"
            )

    def largest_shape(self, name: str) -> Tuple[int, ...]:
        """Returns the largest shape of an input: its own, or the optimization profile's where its own is dynamic."""
        shape = as_shape(self.engine.get_tensor_shape(name))
        return as_shape(self.engine.get_tensor_profile_shape(name, 0)[2]) if -1 in shape else shape

    def dtype(self, name: str) -> Any:
        """Returns a tensor's type in NumPy. Raises UserError for a type that NumPy lacks, or a size that is unknown."""
        kind, shape = self.engine.get_tensor_dtype(name).name, self.shape(name)
        if kind not in TYPES or -1 in shape:
            raise UserError(
                f"tensor '{name}' of '{self.gpu.path}' is {kind} {list(shape)}: expected a type that NumPy has, and a "
                "size that follows from the inputs' sizes; export the model without it"
            )
        return TYPES[kind]

    def shape(self, name: str) -> Tuple[int, ...]:
        """Returns a tensor's shape for the input shapes that are set now."""
        return as_shape(self.context.get_tensor_shape(name))

    def size(self, name: str) -> int:
        """Returns a tensor's size in bytes for the input shapes that are set now."""
        return int(np.prod(self.shape(name))) * np.dtype(self.types[name]).itemsize

    def run(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs arrays by input name. Returns the outputs by name."""
        shapes = {name: feeds[name].shape for name in self.inputs}
        for name, shape in shapes.items():
            self.inputs[name].view(self.types[name], shape)[...] = feeds[name]
        inputs = {name: (shape, self.inputs[name].address) for name, shape in shapes.items()}
        self.enqueue_or_replay(tuple(shapes.items()), inputs, self.enqueue_run)
        return self.results()

    def enqueue_run(self) -> None:
        """Enqueues the inputs' copies, the engine's layers and the outputs' copies."""
        for name, buffer in self.inputs.items():
            buffer.upload(self.size(name), self.stream)
        self.enqueue_engine()

    def enqueue_engine(self) -> None:
        """Enqueues the engine's layers and the outputs' copies."""
        if not self.context.execute_async_v3(self.stream.handle):
            raise UserError(
                f"TensorRT could not run '{self.gpu.path}' on {self.gpu.name} ({self.logger.reason()}): close what "
                "else uses the GPU, or build the engine on this machine"
            )
        for name, buffer in self.outputs.items():
            buffer.download(self.size(name), self.stream)

    def enqueue_or_replay(
        self, key: Hashable, inputs: Mapping[str, Tuple[Tuple[int, ...], int]], enqueue: Callable[[], None]
    ) -> None:
        """Does what `enqueue` does, by a recorded graph where there is one, and waits for it.

        Args:
            key: of all sizes and addresses that `enqueue` uses; a graph is replayed only for the same key.
            inputs: the shape and the address of each of the engine's inputs, by name.
        """
        if key != self.last_key:
            self.last_key, self.graph = None, None
            for name, (shape, address) in inputs.items():
                self.set_shape(name, shape)
                self.context.set_tensor_address(name, address)
            enqueue()
            self.stream.synchronize()
            self.last_key = key
            self.after_first_run()
            return
        if self.graph is None and self.can_record:
            try:
                check_capturable(self.context, self.stream.handle)
                self.graph = Graph(self.stream, enqueue)
            except (*CudaError, UserError) as reason:
                self.can_record = False
                log.warning(f"note: '{self.gpu.path}' runs without a CUDA graph, somewhat slower: {reason}")
        if self.graph is not None:
            self.graph.launch(self.stream)
        else:
            enqueue()
        self.stream.synchronize()

    def results(self) -> Dict[str, np.ndarray]:
        """Returns copies of the last run's outputs, which the caller may keep."""
        return {name: buffer.view(self.types[name], self.shape(name)).copy() for name, buffer in self.outputs.items()}

    def release(self) -> None:
        """Destroys the graph, the execution context, the buffers and the stream, in this order, also where a traceback
        still refers to the slot."""
        self.graph = None
        del self.context, self.after_first_run, self.inputs, self.outputs, self.stream, self.engine
