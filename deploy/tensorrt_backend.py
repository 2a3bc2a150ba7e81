"""Engines for NVIDIA GPUs, run by TensorRT or TensorRT-RTX (one Python API) through pycuda. Untested on a GPU.

It needs TensorRT 8.5 or later: the first with tensors addressed by name and with uint8 inputs.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any, Dict, Iterator

import numpy as np
import pycuda.driver as cuda

from deploy.backends import Backend
from deploy.cli import UserError

INPUT = "image"


def load(path: Path, manifest: Dict[str, Any]) -> Backend:
    """Load the plan at `path` on GPU 0. Raises UserError without a GPU, or if the plan was not built for this one."""
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
    """A plan with its buffers: pinned on the host and on the device, for the largest batch; one CUDA stream.

    Not for several threads at once: they would share the buffers.
    """

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
            self.host: Dict[str, np.ndarray] = {}
            self.device: Dict[str, Any] = {}
            batch = manifest["spec"]["input"]["batch"][2]
            # trt.nptype would do, but fails beside NumPy 1.24 or later in TensorRT 8.
            types = {trt.uint8: np.uint8, trt.float32: np.float32, trt.int32: np.int32}
            for index in range(self.engine.num_io_tensors):
                name = self.engine.get_tensor_name(index)
                shape = (batch, *tuple(self.engine.get_tensor_shape(name))[1:])
                self.host[name] = cuda.pagelocked_empty(shape, types[self.engine.get_tensor_dtype(name)])
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

    def __call__(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Run uint8 [N,H,W,3]; N as built. Returns the outputs by name."""
        count = len(images)
        with self.current():
            self.host[INPUT][:count] = images
            self.context.set_input_shape(INPUT, images.shape)
            cuda.memcpy_htod_async(self.device[INPUT], self.host[INPUT][:count], self.stream)
            if not self.context.execute_async_v3(self.stream.handle):
                raise RuntimeError("TensorRT could not enqueue the engine; its log on stderr says why")
            outputs = {name: buffer[:count] for name, buffer in self.host.items() if name != INPUT}
            for name, buffer in outputs.items():
                cuda.memcpy_dtoh_async(buffer, self.device[name], self.stream)
            self.stream.synchronize()
        return {name: buffer.copy() for name, buffer in outputs.items()}
