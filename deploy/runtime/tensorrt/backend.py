"""Engines for NVIDIA GPUs, run by TensorRT or TensorRT-RTX (one Python API) through pycuda. No plan has run
yet: the one GPU it was tried on, an H200, TensorRT-RTX does not know.

It needs TensorRT 8.5 or later: the first with tensors addressed by name and with uint8 inputs.
"""

import contextlib
import importlib
import queue
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Mapping, Optional

if TYPE_CHECKING:
    import tensorrt as trt

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.backends import Fused
from effedge.deploy.runtime.compiled_cache import cache_path, keep_compiled, read_compiled
from effedge.deploy.runtime.tensorrt.api import (
    RuntimeCache,
    as_shape,
    check_version,
    make_log,
    memory_mib,
    most_contexts,
    remedy,
)
from effedge.deploy.runtime.tensorrt.detector_steps import DetectorSteps, fits, load_kernels
from effedge.deploy.runtime.tensorrt.execution_slot import Lane
from effedge.deploy.runtime.tensorrt.gpu import Gpu


def load(path: Path, manifest: Dict[str, Any], throughput: bool = False) -> "TensorRTEngine":
    """Load the plan at `path` on GPU 0; for throughput two runs go on at once, one's copies during the other's layers.

    Raises UserError without a GPU, or if the plan was not built for this one.
    """
    module = importlib.import_module(manifest["backend"]["name"])
    check_version(module, path)
    return TensorRTEngine(module, Gpu(path), path, manifest, throughput)


class TensorRTEngine:
    """A plan, and a lane or two to run it in. Any number of threads may call it; a thread waits for a free lane."""

    def __init__(self, module: Any, gpu: Gpu, path: Path, manifest: Dict[str, Any], throughput: bool) -> None:
        self.gpu, self.path = gpu, path
        with gpu.current():
            log = make_log(module)
            self.runtime = module.Runtime(log)
            if manifest["backend"].get("version_compatible"):  # such a plan brings its runtime's code with it
                self.runtime.engine_host_code_allowed = True
            self.engine: Optional[trt.ICudaEngine] = self.runtime.deserialize_cuda_engine(path.read_bytes())
            if self.engine is None:
                built, reason = manifest["backend"].get("version"), log.reason()
                raise UserError(
                    f"TensorRT {module.__version__} on {gpu.name} cannot load '{path}', built by {built} ({reason}): "
                    + remedy(reason)
                )
            kept = cache_path(path, "runtime", {"gpu": gpu.name, "version": module.__version__})
            cache = RuntimeCache(module, self.engine, read_compiled(kept))
            names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
            dynamic = any(-1 in as_shape(self.engine.get_tensor_shape(name)) for name in names)
            self.parallel = most_contexts(module, dynamic) if throughput else 1
            self.lanes = []
            for _ in range(self.parallel):
                context = cache.create_context(self.engine)
                if context is None:
                    raise UserError(
                        f"no memory left on {gpu.name} to run '{path}', which takes {memory_mib(self.engine)} MiB "
                        f"beside its weights ({log.reason()}): close what else uses the GPU, or build it for a smaller "
                        "batch"
                    )
                self.lanes.append(Lane(module, gpu, self.engine, context, log))
        # The last one used is the next: its graph is for the shape that came last.
        self.idle: queue.LifoQueue[Lane] = queue.LifoQueue()
        for lane in self.lanes:
            lane.after_first_run = lambda: keep_if_any(kept, cache.changed())
            self.idle.put(lane)

    @contextlib.contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane that nobody else uses meanwhile, with the GPU's context current."""
        lane = self.idle.get()
        try:
            with self.gpu.current():
                yield lane
        finally:
            self.idle.put(lane)

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run arrays by input name, a batch as built. Returns the outputs by name."""
        with self.lane() as lane:
            return lane.run(feeds)

    def fuse(self, description: Mapping[str, Any], selection: Mapping[str, Any]) -> Optional[Fused]:
        """The engine with letterbox and NMS around it, all on the GPU; see Backend.fuse.

        None, and a line on stderr that says why, where the kernels cannot be compiled. Raises UserError if memory is
        short."""
        if not fits(description, self.lanes[0].types):
            return None
        try:
            with self.gpu.current():
                kernels = load_kernels(self.gpu, self.path)
        except UserError as reason:
            print(f"note: letterbox and NMS run on the CPU: {reason}", file=sys.stderr)
            return None
        with self.gpu.current():
            steps = {lane: DetectorSteps(lane, kernels, description, **selection) for lane in self.lanes}

        def detect(pictures: Any) -> Dict[str, np.ndarray]:
            with self.lane() as lane:
                return steps[lane](pictures)

        return detect


def keep_if_any(path: Path, content: Optional[bytes]) -> None:
    if content is not None:
        keep_compiled(path, content)
