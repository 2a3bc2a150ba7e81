"""Adapts the runtime to the TensorRT versions that run engines, 8.5 to 11, and to TensorRT-RTX.

Their common part is used directly. They differ in these cases:

1. Before 8.5 tensors have no names and there is no uint8: refused.
2. 8.5 and 8.6 give an optimization profile to one execution context only, and a dynamic batch has one profile.
3. 11 and TensorRT-RTX have only `device_memory_size_v2`, 8 has only `device_memory_size`.
4. TensorRT-RTX compiles kernels when it runs, on the device. The runtime cache keeps them. With EAGER they are compiled
   at once; with LAZY a CUDA graph would keep the slow general kernels that are used at first.
5. TensorRT-RTX says whether a stream can be captured; with the others an attempt shows it.

Sources: the migration guides of TensorRT 10 and 11, TensorRT-RTX's guide ("Working with Runtime Cache", "Working with
RTX CUDA Graphs"), NVIDIA/TensorRT#1590. Only the names of TensorRT-RTX 1.7 have been checked against it.
"""

from typing import TYPE_CHECKING, Any, Optional, Tuple

if TYPE_CHECKING:
    import tensorrt as trt

from effedge.deploy.common.cli import UserError


def check_version(module: Any, path: object) -> None:
    """Raises UserError in case 1."""
    if not hasattr(module.IExecutionContext, "execute_async_v3"):
        raise UserError(f"TensorRT {module.__version__} is too old for '{path}': expected 8.5 or later")


def as_shape(dims: Any) -> Tuple[int, ...]:
    """Converts TensorRT's Dims, or any other shape, to a tuple."""
    return tuple(dims)


def max_contexts(module: Any, dynamic: bool) -> int:
    """Returns how many execution contexts can run at once, of the two that throughput mode uses (case 2)."""
    shares_profiles = module.__name__ == "tensorrt_rtx" or int(module.__version__.split(".")[0]) >= 10
    return 2 if shares_profiles or not dynamic else 1


def memory_mib(engine: "trt.ICudaEngine") -> int:
    """Returns the GPU memory of an execution context in MiB, without weights, inputs and outputs (case 3)."""
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return size >> 20


class RuntimeCache:
    """The kernels that TensorRT-RTX compiled, for all contexts of an engine (case 4); for TensorRT it does nothing."""

    def __init__(self, module: Any, engine: "trt.ICudaEngine", content: Optional[bytes]) -> None:
        """`content` is an earlier result of `changed`; TensorRT-RTX takes it only on the same GPU, driver and
        version."""
        self.config: Any = None
        if module.__name__ == "tensorrt_rtx":
            self.config = engine.create_runtime_config()
            self.config.dynamic_shapes_kernel_specialization_strategy = (
                module.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self.cache = self.config.create_runtime_cache()
            self.last = content if content is not None and self.cache.deserialize(content) else b""
            self.config.set_runtime_cache(self.cache)

    def create_context(self, engine: "trt.ICudaEngine") -> "Optional[trt.IExecutionContext]":
        """Creates an execution context; None if no memory is left."""
        return (
            engine.create_execution_context() if self.config is None else engine.create_execution_context(self.config)
        )

    def changed(self) -> Optional[bytes]:
        """Returns the cache's content, to be kept; None if it has not changed since the last call."""
        if self.config is None:
            return None
        content = bytes(self.cache.serialize())
        if content == self.last:
            return None
        self.last = content
        return content


def check_capturable(context: "trt.IExecutionContext", stream: int) -> None:
    """Raises UserError, with the reason, if TensorRT-RTX says that a run of the context cannot be recorded (case 5)."""
    is_stream_capturable = getattr(context, "is_stream_capturable", None)
    if is_stream_capturable is not None and not is_stream_capturable(stream):
        raise UserError("TensorRT-RTX says that the engine cannot be recorded (BuilderFlag.REQUIRE_USER_ALLOCATION)")


def remedy(reason: str) -> str:
    """Returns the advice for a plan that cannot be loaded, by TensorRT's reason (TensorRT-RTX 1.7's words, on an
    H200)."""
    if "does not support this compute capability" in reason:
        return "TensorRT itself does: install it and build with TARGET=trt"
    return "build the engine on this machine"
