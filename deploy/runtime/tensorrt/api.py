"""What differs between the TensorRTs that run engines: 8.5 to 11, and TensorRT-RTX. Their common part is used directly.

1. Before 8.5 tensors have no names and there is no uint8: refused.
2. 8.5 and 8.6 give an optimization profile, which a dynamic batch has one of, to one execution context only.
3. 11 and TensorRT-RTX have `device_memory_size_v2` alone, 8 only `device_memory_size`.
4. TensorRT-RTX compiles kernels when it runs, on the device. The runtime cache keeps them; EAGER has them compiled at
   once, as a CUDA graph would hold on to the slow general ones that LAZY begins with.
5. TensorRT-RTX tells whether a stream can be captured; of the others an attempt shows it.

Sources: the migration guides of TensorRT 10 and 11, TensorRT-RTX's guide ("Working with Runtime Cache", "Working with
RTX CUDA Graphs"), NVIDIA/TensorRT#1590. Only the names of TensorRT-RTX 1.7 have been checked against it.
"""

import re
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

if TYPE_CHECKING:
    import tensorrt as trt

from effedge.deploy.common.cli import UserError

SOURCE_PLACE = re.compile(r" In \w+ at /\S+:\d+(?=\)|$)")  # within TensorRT's own sources


def check_version(module: Any, path: object) -> None:
    """UserError for case 1."""
    if not hasattr(module.IExecutionContext, "execute_async_v3"):
        raise UserError(f"TensorRT {module.__version__} is too old for '{path}': expected 8.5 or later")


def as_shape(dims: Any) -> Tuple[int, ...]:
    """TensorRT's Dims, or a shape of anybody's."""
    return tuple(dims)


def most_contexts(module: Any, dynamic: bool) -> int:
    """How many execution contexts may be at work at once, of the two that throughput wants (case 2)."""
    shares_profiles = module.__name__ == "tensorrt_rtx" or int(module.__version__.split(".")[0]) >= 10
    return 2 if shares_profiles or not dynamic else 1


def memory_mib(engine: "trt.ICudaEngine") -> int:
    """What an execution context takes of the GPU's memory, beside weights, inputs and outputs (case 3)."""
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return size >> 20


class RuntimeCache:
    """The kernels that TensorRT-RTX compiled, for all contexts of an engine (case 4); for the others nothing at all."""

    def __init__(self, module: Any, engine: "trt.ICudaEngine", kept: Optional[bytes]) -> None:
        """`kept` is what `changed` gave before; TensorRT-RTX takes it only on the same GPU, driver and version."""
        self.config: Any = None
        if module.__name__ == "tensorrt_rtx":
            self.config = engine.create_runtime_config()
            self.config.dynamic_shapes_kernel_specialization_strategy = (
                module.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self.cache = self.config.create_runtime_cache()
            self.last = kept if kept is not None and self.cache.deserialize(kept) else b""
            self.config.set_runtime_cache(self.cache)

    def create_context(self, engine: "trt.ICudaEngine") -> "Optional[trt.IExecutionContext]":
        """None if there is no memory left."""
        return (
            engine.create_execution_context() if self.config is None else engine.create_execution_context(self.config)
        )

    def changed(self) -> Optional[bytes]:
        """The cache's content to be kept, or None if it is as it was."""
        if self.config is None:
            return None
        content = bytes(self.cache.serialize())
        if content == self.last:
            return None
        self.last = content
        return content


def check_capturable(context: "trt.IExecutionContext", stream: int) -> None:
    """UserError, a reason, if it is known that a run of the context on a stream cannot be recorded (case 5)."""
    ask = getattr(context, "is_stream_capturable", None)
    if ask is not None and not ask(stream):
        raise UserError("TensorRT-RTX says that the engine cannot be recorded (BuilderFlag.REQUIRE_USER_ALLOCATION)")


def remedy(reason: str) -> str:
    """What to do where a plan cannot be loaded, by TensorRT's reason (in TensorRT-RTX 1.7's words, on an H200)."""
    if "does not support this compute capability" in reason:
        return "TensorRT itself does: install it and build with TARGET=trt"
    return "build the engine on this machine"


def make_log(module: Any) -> Any:
    """A logger that keeps the errors, in `errors`, so that they can be told on one line."""

    class Log(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: List[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.errors.append(SOURCE_PLACE.sub("", " ".join(msg.split())))

        def reason(self) -> str:
            """The first error since the last call; those after it are its consequences."""
            errors, self.errors = self.errors, []
            return errors[0] if errors else "it gave no reason"

    return Log()
