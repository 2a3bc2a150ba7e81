"""Engines for NVIDIA GPUs, run by TensorRT or TensorRT-RTX (one Python API) through pycuda. Untested on a GPU.

It needs TensorRT 8.5 or later: the first with tensors addressed by name and with uint8 inputs.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import numpy as np
import pycuda.driver as cuda

from deploy.backends import Backend
from deploy.cli import UserError

# By TensorRT's name of a type: trt.nptype would do, but fails beside NumPy 1.24 or later in TensorRT 8.
TYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64,
    "BOOL": np.bool_,
}  # fmt: skip


def load(path: Path, manifest: Dict[str, Any], throughput: bool = False) -> Backend:
    """Load the plan at `path` on GPU 0; for throughput nothing is different yet.

    Raises UserError without a GPU, or if the plan was not built for this one.
    """
    trt = importlib.import_module(manifest["backend"]["name"])
    if not hasattr(trt.IExecutionContext, "execute_async_v3"):
        raise UserError(f"TensorRT {trt.__version__} is too old for '{path}': expected 8.5 or later")
    try:
        cuda.init()
        device = cuda.Device(0)
    except cuda.Error as error:
        raise UserError(f"'{path}' needs an NVIDIA GPU, and CUDA finds none ({error})") from error
    return TensorRTEngine(trt, device, path, manifest)


class TensorRTEngine:
    """A plan with its buffers: pinned on the host and on the device, for the largest inputs; one CUDA stream.

    Not for several threads at once: they would share the buffers.
    """

    parallel = 1

    def __init__(self, trt: Any, device: Any, path: Path, manifest: Dict[str, Any]) -> None:
        # The device's primary context, which other CUDA libraries in the process use too.
        self.cuda_context = device.retain_primary_context()
        with self.current():
            logger = trt.Logger(trt.Logger.ERROR)
            self.runtime = trt.Runtime(logger)
            self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
            if self.engine is None:
                built = manifest["backend"].get("version")
                raise UserError(
                    f"TensorRT {trt.__version__} on {device.name()} cannot load '{path}', built by {built} for another "
                    "version or GPU: build the engine on this machine"
                )
            self.context = self.engine.create_execution_context()
            if self.context is None:
                raise UserError(f"no memory left on {device.name()} to run '{path}': build it for a smaller batch")
            self.stream = cuda.Stream()
            self.host: Dict[str, np.ndarray] = {}  # flat
            self.device: Dict[str, Any] = {}
            names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
            is_input = {name: self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
            self.inputs = [name for name in names if is_input[name]]
            self.outputs = [name for name in names if not is_input[name]]
            for name in self.inputs:
                self.context.set_input_shape(name, self.largest_shape(name))
            for name in names:
                self.allocate(name, path)

    def largest_shape(self, name: str) -> Tuple[int, ...]:
        """The largest that an input may be: its own shape, or the optimization profile's where that is dynamic."""
        shape = tuple(self.engine.get_tensor_shape(name))
        return tuple(self.engine.get_tensor_profile_shape(name, 0)[2]) if -1 in shape else shape

    def allocate(self, name: str, path: Path) -> None:
        """Buffers for a tensor at the largest inputs. UserError for a type or a size that NumPy or we cannot hold."""
        dtype, shape = self.engine.get_tensor_dtype(name).name, tuple(self.context.get_tensor_shape(name))
        if dtype not in TYPES or -1 in shape:
            raise UserError(
                f"tensor '{name}' of '{path}' is {dtype} {list(shape)}: expected a type that NumPy has, and a size "
                "that follows from the inputs' sizes; export the model without it"
            )
        self.host[name] = cuda.pagelocked_empty(max(1, int(np.prod(shape))), TYPES[dtype])
        self.device[name] = cuda.mem_alloc(self.host[name].nbytes)
        self.context.set_tensor_address(name, int(self.device[name]))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the CUDA context the calling thread's own for a while."""
        self.cuda_context.push()
        try:
            yield
        finally:
            self.cuda_context.pop()

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run arrays by input name, a batch as built. Returns the outputs by name."""
        with self.current():
            for name in self.inputs:
                part = self.host[name][: feeds[name].size]
                part[:] = feeds[name].ravel()
                self.context.set_input_shape(name, feeds[name].shape)
                cuda.memcpy_htod_async(self.device[name], part, self.stream)
            if not self.context.execute_async_v3(self.stream.handle):
                raise RuntimeError("TensorRT could not enqueue the engine; its log on stderr says why")
            outputs = {}
            for name in self.outputs:
                shape = tuple(self.context.get_tensor_shape(name))
                outputs[name] = self.host[name][: int(np.prod(shape))].reshape(shape)
                cuda.memcpy_dtoh_async(outputs[name], self.device[name], self.stream)
            self.stream.synchronize()
        return {name: buffer.copy() for name, buffer in outputs.items()}
