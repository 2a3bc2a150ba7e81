"""Runs engines for NVIDIA GPUs by TensorRT or TensorRT-RTX (one Python API) through pycuda. No plan has run yet: the
one GPU that was tried, an H200, is unknown to TensorRT-RTX.

It needs TensorRT 8.5 or later, the first with tensors addressed by name and with uint8 inputs.
"""

import contextlib
import importlib
import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional

if TYPE_CHECKING:
    import tensorrt as trt

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import InputSpec, Manifest
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.backends import FusedDetector
from effedge.deploy.runtime.compiled_cache import cache_path, keep_compiled, read_compiled
from effedge.deploy.runtime.tensorrt.api import (
    RuntimeCache,
    as_shape,
    check_version,
    max_contexts,
    memory_mib,
    remedy,
)
from effedge.deploy.runtime.tensorrt.detector_steps import DetectorSteps, Selection, load_kernels, supports
from effedge.deploy.runtime.tensorrt.execution_slot import ExecutionSlot
from effedge.deploy.runtime.tensorrt.gpu import Gpu
from effedge.deploy.runtime.tensorrt.log import tensorrt_logger


def load(path: Path, manifest: Manifest, throughput: bool = False) -> "TensorRTEngine":
    """Loads the plan at `path` on GPU 0; for throughput two runs are parallel, one's copies during the other's layers.

    Raises UserError without a GPU, or if the plan was not built for this GPU.
    """
    module = importlib.import_module(manifest["backend"]["name"])
    check_version(module, path)
    return TensorRTEngine(module, Gpu(path), path, manifest, throughput)


class TensorRTEngine:
    """A plan, and one or two execution slots. Any number of threads may call it; a thread waits for an idle slot."""

    def __init__(self, module: Any, gpu: Gpu, path: Path, manifest: Manifest, throughput: bool) -> None:
        self.gpu, self.path = gpu, path
        with gpu.current():
            logger = tensorrt_logger(module)
            logger.forget()  # of another engine
            self.runtime = module.Runtime(logger)
            if manifest["backend"].get("version_compatible"):  # such a plan brings its runtime's code with it
                self.runtime.engine_host_code_allowed = True
            self.engine: Optional[trt.ICudaEngine] = self.runtime.deserialize_cuda_engine(path.read_bytes())
            if self.engine is None:
                built, reason = manifest["backend"].get("version"), logger.reason()
                raise UserError(
                    f"TensorRT {module.__version__} on {gpu.name} cannot load '{path}', built by {built} ({reason}): "
                    + remedy(reason)
                )
            cached = cache_path(path, "runtime", {"gpu": gpu.name, "version": module.__version__})
            cache = RuntimeCache(module, self.engine, read_compiled(cached))
            names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
            dynamic = any(-1 in as_shape(self.engine.get_tensor_shape(name)) for name in names)
            self.parallel = max_contexts(module, dynamic) if throughput else 1
            self.slots = []
            for _ in range(self.parallel):
                context = cache.create_context(self.engine)
                if context is None:
                    raise UserError(
                        f"no memory left on {gpu.name} to run '{path}', which takes {memory_mib(self.engine)} MiB "
                        f"beside its weights ({logger.reason()}): close what else uses the GPU, or build it for a "
                        "smaller batch"
                    )
                self.slots.append(ExecutionSlot(module, gpu, self.engine, context, logger))
        # The slot that was used last is used next: its graph is for the last shape.
        self.idle: queue.LifoQueue[ExecutionSlot] = queue.LifoQueue()
        for slot in self.slots:
            slot.after_first_run = lambda: keep_if_changed(cached, cache.changed())
            self.idle.put(slot)

    @contextlib.contextmanager
    def idle_slot(self) -> Iterator[ExecutionSlot]:
        """Yields a slot that no other thread uses within the block, with the GPU's context current."""
        slot = self.idle.get()
        try:
            with self.gpu.current():
                yield slot
        finally:
            self.idle.put(slot)

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs arrays by input name, a batch as built. Returns the outputs by name."""
        with self.idle_slot() as slot:
            return slot.run(feeds)

    def fuse(self, input_spec: InputSpec, selection: Mapping[str, Any]) -> Optional[FusedDetector]:
        """Returns the engine with letterbox and NMS around it, all on the GPU; see Backend.

        Returns None where the kernels do not support the engine, and, after a warning with the reason, where they
        cannot be compiled. Raises UserError if memory is short.
        """
        if not supports(input_spec, self.slots[0].types):
            return None
        try:
            with self.gpu.current():
                kernels = load_kernels(self.gpu, self.path)
        except UserError as reason:
            log.warning(f"note: letterbox and NMS run on the CPU: {reason}")
            return None
        with self.gpu.current():
            steps = {slot: DetectorSteps(slot, kernels, input_spec, Selection(**selection)) for slot in self.slots}

        def detect(images: List[np.ndarray]) -> Dict[str, np.ndarray]:
            with self.idle_slot() as slot:
                return steps[slot](images)

        return detect


def keep_if_changed(path: Path, content: Optional[bytes]) -> None:
    """Keeps the runtime cache's content, if it has changed."""
    if content is not None:
        keep_compiled(path, content)
