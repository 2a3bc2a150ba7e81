"""Runs engines for CPUs by OpenVINO, with the first blocks in C++ where the engine has CPU blocks."""

import io
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np
import openvino as ov

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.native.cpu_blocks.blocks import CpuBlocks, load_cpu_blocks
from effedge.deploy.runtime.backends import Backend
from effedge.deploy.runtime.compiled_cache import cache_path, keep_compiled, read_compiled
from effedge.deploy.timing.machine import cores, cpu

Shapes = Mapping[str, Tuple[int, int, int]]  # [h,w,channels] of the CPU blocks' outputs, by their operations' names


def load(path: Path, manifest: Manifest, throughput: bool = False) -> Backend:
    """Compiles the OpenVINO model at `path` for this CPU, with the settings of the manifest's `backend.config`.

    For latency all cores compute one run; for throughput OpenVINO runs several in parallel, each on one core or a few.
    Raises UserError if OpenVINO refuses the model.
    """
    hint = "THROUGHPUT" if throughput else "LATENCY"
    config = {"PERFORMANCE_HINT": hint, **manifest["backend"].get("config", {})}
    blocks, _ = load_cpu_blocks(path, manifest["backend"], 1 if throughput else cores())
    try:
        compiled = compile_or_import(path, manifest, config, None if blocks is None else blocks.output_shapes)
    except RuntimeError as error:
        built = manifest["backend"].get("version")
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"OpenVINO {ov.__version__} cannot load '{path}', built by {built} ({reason}): build the engine again here"
        ) from error
    return OpenVinoEngine(compiled, blocks)


def first_blocks_computed_by(path: Path, manifest: Manifest) -> Optional[str]:
    """Returns what computes the first blocks; see backends.first_blocks_computed_by."""
    return load_cpu_blocks(path, manifest["backend"], threads=1)[1]


def compile_or_import(path: Path, manifest: Manifest, config: Dict[str, str], block_outputs: Optional[Shapes]) -> Any:
    """Returns the compiled model, from the folder's cache if it was compiled here before.

    `block_outputs` are as `compile_model` takes them. A model that is in no engine's folder (`manifest` lists no files)
    has no cache.
    """
    core = ov.Core()
    if not manifest.get("files"):
        return compile_model(core, path, config, block_outputs)
    depends_on = {
        "config": config,
        "files": manifest["files"],
        "cpu_blocks": block_outputs is not None,
        "openvino": ov.__version__,
        "cpu": {**cpu(), "cores": cores()},
    }
    cached = cache_path(path, config["PERFORMANCE_HINT"].lower(), depends_on)
    blob = read_compiled(cached)
    if blob is not None:
        return core.import_model(io.BytesIO(blob), "CPU", config)
    compiled = compile_model(core, path, config, block_outputs)
    exported = io.BytesIO()
    compiled.export_model(exported)
    keep_compiled(cached, exported.getvalue())
    return compiled


def compile_model(core: Any, path: Path, config: Dict[str, str], block_outputs: Optional[Shapes]) -> Any:
    """Compiles the model at `path`; without its first blocks, if CPU blocks compute the outputs `block_outputs`."""
    if block_outputs is None:
        return core.compile_model(str(path), "CPU", config)
    return core.compile_model(remove_first_blocks(core.read_model(str(path)), block_outputs), "CPU", config)


def named_outputs(model: Any, names: Iterable[str]) -> List[Any]:
    """Returns the outputs of the operations with these names. Raises RuntimeError if an operation is missing."""
    named = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    missing = [name for name in names if name not in named]
    if missing:
        raise RuntimeError(f"the engine has no operation '{missing[0]}', which its CPU blocks name")
    return [named[name].output(0) for name in names]


def remove_first_blocks(model: Any, block_outputs: Shapes) -> Any:
    """Returns the rest of a model, which is changed: it reads the CPU blocks' outputs, float32 [N,h,w,channels], under
    the names of the operations that computed them. Raises RuntimeError if an operation is missing."""
    ops = ov.opset13 if hasattr(ov, "opset13") else ov.runtime.opset13
    batch = model.inputs[0].get_partial_shape()[0]
    parameters = []
    for (name, shape), port in zip(block_outputs.items(), named_outputs(model, block_outputs)):
        parameter = ops.parameter(ov.PartialShape([batch, *shape]), np.float32)
        parameter.output(0).set_names({name})
        transposed = ops.transpose(parameter, ops.constant(np.array([0, 3, 1, 2])))
        port.replace(transposed.output(0))
        parameters.append(parameter)
    return ov.Model(model.get_results(), parameters)


class OpenVinoEngine:
    """A compiled model, and the CPU blocks that compute its inputs, if the engine has any.

    Each run under way has an infer request and CPU blocks of its own, so that no run waits for another; afterwards they
    are kept for the next run.
    """

    def __init__(self, compiled: Any, cpu_blocks: Optional[CpuBlocks] = None) -> None:
        self.compiled, self.cpu_blocks = compiled, cpu_blocks
        self.parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.names = [(name, index) for index, output in enumerate(compiled.outputs) for name in output.get_names()]
        self.idle: List[Tuple[Any, Optional[CpuBlocks]]] = [(compiled.create_infer_request(), cpu_blocks)]

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs arrays by input name. Returns the outputs by name."""
        try:
            request, blocks = self.idle.pop()
        except IndexError:
            blocks = None if self.cpu_blocks is None else self.cpu_blocks.another()
            request = self.compiled.create_infer_request()
        try:
            if blocks is not None:
                feeds = blocks(*feeds.values())
            results = request.infer(feeds, share_inputs=True)  # the outputs are not shared: the caller may keep them
            return {name: results[index] for name, index in self.names}
        finally:
            self.idle.append((request, blocks))
