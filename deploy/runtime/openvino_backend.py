"""Engines for the CPU, run by OpenVINO."""

import io
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np
import openvino as ov

from effedge.deploy.common.cli import UserError
from effedge.deploy.native.cpu_blocks.blocks import Front, front_of
from effedge.deploy.runtime.backends import Backend
from effedge.deploy.runtime.compiled_cache import cache_path, keep_compiled, read_compiled
from effedge.deploy.timing.machine import cores, cpu

Shapes = Mapping[str, Tuple[int, int, int]]  # [h,w,channels] of the front's outputs, by their operations' names


def load(path: Path, manifest: Dict[str, Any], throughput: bool = False) -> Backend:
    """Compile the OpenVINO model at `path` for this CPU, with the settings of the manifest's `backend.config`.

    For latency all cores compute one run; for throughput OpenVINO has several runs side by side, on a core or a few
    each. Raises UserError if OpenVINO refuses the model.
    """
    hint = "THROUGHPUT" if throughput else "LATENCY"
    config = {"PERFORMANCE_HINT": hint, **manifest["backend"].get("config", {})}
    front, _ = front_of(path, manifest, 1 if throughput else cores())
    try:
        compiled = load_compiled(path, manifest, config, None if front is None else front.shapes)
    except RuntimeError as error:
        built = manifest["backend"].get("version")
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"OpenVINO {ov.__version__} cannot load '{path}', built by {built} ({reason}): build the engine again here"
        ) from error
    return OpenVinoEngine(compiled, front)


def load_compiled(path: Path, manifest: Dict[str, Any], config: Dict[str, str], front: Optional[Shapes] = None) -> Any:
    """The compiled model, without its front if there is one, which has outputs of these shapes; from the folder's cache
    if it was compiled here before. A model that is in no engine's folder (`manifest` lists no files) has no cache."""
    core = ov.Core()
    if not manifest.get("files"):
        return compile_rest(core, path, config, front)
    here = {"openvino": ov.__version__, "cpu": {**cpu(), "cores": cores()}}
    depends_on = {"config": config, "files": manifest["files"], "front": front is not None, **here}
    kept = cache_path(path, config["PERFORMANCE_HINT"].lower(), depends_on)
    blob = read_compiled(kept)
    if blob is not None:
        return core.import_model(io.BytesIO(blob), "CPU", config)
    compiled = compile_rest(core, path, config, front)
    exported = io.BytesIO()
    compiled.export_model(exported)
    keep_compiled(kept, exported.getvalue())
    return compiled


def compile_rest(core: Any, path: Path, config: Dict[str, str], front: Optional[Shapes]) -> Any:
    if front is None:
        return core.compile_model(str(path), "CPU", config)
    return core.compile_model(without_front(core.read_model(str(path)), front), "CPU", config)


def named_outputs(model: Any, names: Iterable[str]) -> List[Any]:
    """The outputs of the operations with these names. RuntimeError if there is none with one of them."""
    named = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    missing = [name for name in names if name not in named]
    if missing:
        raise RuntimeError(f"the engine has no operation '{missing[0]}', which its front names")
    return [named[name].output(0) for name in names]


def without_front(model: Any, front: Shapes) -> Any:
    """The rest of a model, which is changed: it reads the front's outputs, float32 [N,h,w,channels], by the names of
    the operations that gave them. RuntimeError if there are no such operations."""
    ops = ov.opset13 if hasattr(ov, "opset13") else ov.runtime.opset13
    batch = model.inputs[0].get_partial_shape()[0]
    parameters = []
    for (name, shape), port in zip(front.items(), named_outputs(model, front)):
        parameter = ops.parameter(ov.PartialShape([batch, *shape]), np.float32)
        parameter.output(0).set_names({name})
        turned = ops.transpose(parameter, ops.constant(np.array([0, 3, 1, 2])))
        port.replace(turned.output(0))
        parameters.append(parameter)
    return ov.Model(model.get_results(), parameters)


class OpenVinoEngine:
    """A compiled model, and the front that gives its inputs, if it has one. Each run that is under way has an infer
    request and a front of its own, so that none waits for another; they are kept for the next ones."""

    def __init__(self, compiled: Any, front: Optional[Front] = None) -> None:
        self.compiled, self.front = compiled, front
        self.parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.names = [(name, index) for index, output in enumerate(compiled.outputs) for name in output.get_names()]
        self.spare: List[Tuple[Any, Optional[Front]]] = [(compiled.create_infer_request(), front)]  # in no run now

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run arrays by input name. Returns the outputs by name."""
        try:
            request, front = self.spare.pop()
        except IndexError:
            front = None if self.front is None else self.front.another()
            request = self.compiled.create_infer_request()
        try:
            if front is not None:
                feeds = front(*feeds.values())
            results = request.infer(feeds, share_inputs=True)  # not shared: the outputs, which may be kept
            return {name: results[index] for name, index in self.names}
        finally:
            self.spare.append((request, front))
