"""Runs engines for NVIDIA GPUs by TensorRT or TensorRT-RTX (one Python API). No plan has run yet: the one GPU that was
tried, an H200, is unknown to TensorRT-RTX.

It needs TensorRT 8.5 or later, the first with tensors addressed by name and with uint8 inputs.
"""

import contextlib
import importlib
import os
import queue
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional

if TYPE_CHECKING:
    import tensorrt as trt

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import InputSpec, Manifest
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.backends import FusedDetector, check_process
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
from effedge.deploy.runtime.tensorrt.gpu import CALLED_BY, Gpu
from effedge.deploy.runtime.tensorrt.log import tensorrt_logger

CUDA_CALLED_BY = CALLED_BY  # for reports
LONGEST_RUN = 5.0  # seconds


def load(path: Path, manifest: Manifest, throughput: bool = False) -> "TensorRTEngine":
    """Loads the plan at `path` on GPU 0; for throughput two runs are parallel, one's copies during the other's layers.

    Raises UserError without a GPU, or if the plan was not built for this GPU.
    """
    module = importlib.import_module(manifest["backend"]["name"])
    check_version(module, path)
    return TensorRTEngine(module, Gpu(path), path, manifest, throughput)


class LoadedPlan:
    """Holds what an engine occupies on the GPU, apart from the TensorRTEngine that a program refers to: so it is
    released in order when that is destroyed, even by the collector of reference cycles, and when the process ends."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.runtime: Any = None
        self.slots: List[ExecutionSlot] = []
        # The slot that was used last is used next: its graph is for the last shape.
        self.idle: queue.LifoQueue[ExecutionSlot] = queue.LifoQueue()
        self.steps: List[Dict[ExecutionSlot, DetectorSteps]] = []

    def add(self, slot: ExecutionSlot) -> None:
        """Adds an idle slot."""
        self.slots.append(slot)
        self.idle.put(slot)

    def release(self) -> None:
        """Destroys the slots, the engine and its runtime, in this order.

        What a daemon thread still uses when the process ends, or what is on a GPU that has failed, is left to that end.
        """
        with contextlib.suppress(queue.Empty, UserError), self.gpu.current():
            while self.slots:
                slot = self.idle.get(timeout=LONGEST_RUN)
                slot.release()
                for steps in self.steps:
                    steps.pop(slot, None)
                self.slots.remove(slot)
            self.runtime = None


class TensorRTEngine:
    """A plan, and one or two execution slots. Any number of threads may call it; a thread waits for an idle slot.

    It is released when it is destroyed, at the latest when the process ends, while the interpreter is still intact.
    """

    def __init__(self, module: Any, gpu: Gpu, path: Path, manifest: Manifest, throughput: bool) -> None:
        self.gpu, self.path, self.process = gpu, path, os.getpid()
        self.loaded = LoadedPlan(gpu)
        self.finalizer = weakref.finalize(self, self.loaded.release)
        with gpu.current():
            logger = tensorrt_logger(module)
            logger.forget()  # of another engine
            runtime = self.loaded.runtime = module.Runtime(logger)
            if manifest["backend"].get("version_compatible"):  # such a plan brings its runtime's code with it
                runtime.engine_host_code_allowed = True
            engine: Optional[trt.ICudaEngine] = runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                built, reason = manifest["backend"].get("version"), logger.reason()
                raise UserError(
                    f"TensorRT {module.__version__} on {gpu.name} cannot load '{path}', built by {built} ({reason}): "
                    + remedy(reason)
                )
            cached = cache_path(path, "runtime", {"gpu": gpu.name, "version": module.__version__})
            cache = RuntimeCache(module, engine, read_compiled(cached))
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            dynamic = any(-1 in as_shape(engine.get_tensor_shape(name)) for name in names)
            self.parallel = max_contexts(module, dynamic) if throughput else 1
            for _ in range(self.parallel):
                context = cache.create_context(engine)
                if context is None:
                    raise UserError(
                        f"no memory left on {gpu.name} to run '{path}', which takes {memory_mib(engine)} MiB "
                        f"beside its weights ({logger.reason()}): close what else uses the GPU, or build it for a "
                        "smaller batch"
                    )
                slot = ExecutionSlot(module, gpu, engine, context, logger)
                slot.after_first_run = lambda: keep_if_changed(cached, cache.changed())
                self.loaded.add(slot)
        if "dla" in manifest["backend"]:
            for slot in self.loaded.slots:
                slot.can_record = False
            log.warning(
                f"note: '{path}' runs without a CUDA graph, somewhat slower: it uses a DLA, with which recording has "
                "failed (NVIDIA/TensorRT#3524)"
            )

    @contextlib.contextmanager
    def idle_slot(self) -> Iterator[ExecutionSlot]:
        """Yields a slot that no other thread uses within the block, with the GPU's context current. Raises UserError in
        a forked process."""
        check_process(self.process)
        if not self.finalizer.alive:
            raise UserError(f"'{self.path}' has been released, because the program ends: run it earlier")
        slot = self.loaded.idle.get()
        try:
            with self.gpu.current():
                yield slot
        finally:
            self.loaded.idle.put(slot)

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs arrays by input name, a batch as built. Returns the outputs by name."""
        with self.idle_slot() as slot:
            return slot.run(feeds)

    def fuse(self, input_spec: InputSpec, selection: Mapping[str, Any]) -> Optional[FusedDetector]:
        """Returns the engine with letterbox and NMS around it, all on the GPU; see Backend.

        Returns None where the kernels do not support the engine, and, after a warning with the reason, where they
        cannot be compiled. Raises UserError if memory is short.
        """
        if not supports(input_spec, self.loaded.slots[0].types):
            return None
        try:
            with self.gpu.current():
                kernels = load_kernels(self.gpu, self.path)
        except UserError as reason:
            log.warning(f"note: letterbox and NMS run on the CPU: {reason}")
            return None
        with self.gpu.current():
            chosen = Selection(**selection)
            steps = {slot: DetectorSteps(slot, kernels, input_spec, chosen) for slot in self.loaded.slots}
        self.loaded.steps.append(steps)

        def detect(images: List[np.ndarray]) -> Dict[str, np.ndarray]:
            with self.idle_slot() as slot:
                return steps[slot](images)

        return detect


def keep_if_changed(path: Path, content: Optional[bytes]) -> None:
    """Keeps the runtime cache's content, if it has changed."""
    if content is not None:
        keep_compiled(path, content)
