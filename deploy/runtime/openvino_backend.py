"""Runs engines for CPUs by OpenVINO, with the first blocks in C++ where the engine has CPU blocks."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np
import openvino as ov

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.paths import shown
from effedge.deploy.native.cpu_blocks.blocks import CpuBlocks, load_cpu_blocks
from effedge.deploy.runtime.backends import Backend, check_process
from effedge.deploy.runtime.compiled_cache import cache_path, keep_compiled, read_compiled
from effedge.deploy.runtime.manifest import loaded_file
from effedge.deploy.runtime.openvino_int8_sums import narrow_weights, ops, saturates
from effedge.deploy.timing.machine import cores, cpu

# The settings that a manifest may name, and their values: others make OpenVINO write files, or run on other devices.
SETTINGS = {"INFERENCE_PRECISION_HINT": ("f32", "bf16", "f16")}
INT8_SUMS = 1  # of openvino_int8_sums.py's rule: another number makes what was compiled by the earlier one invalid
Shapes = Mapping[str, Tuple[int, int, int]]  # [h,w,channels] of the CPU blocks' outputs, by their operations' names


def load(path: Path, manifest: Manifest, throughput: bool = False) -> Backend:
    """Compiles the OpenVINO model at `path` for this CPU, with the settings of the manifest's `backend.config`.

    For latency all cores compute one run; for throughput OpenVINO runs several in parallel, each on one core or a few.
    Raises UserError if OpenVINO refuses the model, or the manifest does not list a file or names another setting.
    """
    check_files(path, manifest)
    hint = "THROUGHPUT" if throughput else "LATENCY"
    config = {**manifest_settings(path, manifest), "PERFORMANCE_HINT": hint}
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


def check_files(path: Path, manifest: Manifest) -> None:
    """Raises UserError unless the manifest lists all files that are read for the engine at `path`.

    OpenVINO chooses its reader by the content as well as by the name. Only that of its own format is let in: the others
    read any file that the model names. A `<` at the start, of XML, begins no other format that OpenVINO knows.
    """
    if "files" not in manifest:
        return
    try:
        with open(str(path), "rb") as file:
            start = file.read(1)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    if path.suffix != ".xml" or start != b"<":
        raise UserError(f"'{path}' is no model of OpenVINO's format (.xml): build the engine again")
    loaded_file(path.parent, manifest, path.with_suffix(".bin").name)
    if "cpu_blocks" in manifest["backend"]:
        loaded_file(path.parent, manifest, manifest["backend"]["cpu_blocks"].get("file"))


def manifest_settings(path: Path, manifest: Manifest) -> Dict[str, str]:
    """Returns the manifest's `backend.config`. Raises UserError for a setting or a value that SETTINGS lacks."""
    config = manifest["backend"].get("config", {})
    for name, value in config.items():
        if value not in SETTINGS.get(name, ()):
            known = ", ".join(f"{name}={'|'.join(values)}" for name, values in SETTINGS.items())
            raise UserError(
                f"the manifest of '{path}' sets {shown(name)}={shown(value)}, expected {known}: build the engine again"
            )
    return dict(config)


def first_blocks_computed_by(path: Path, manifest: Manifest) -> Optional[str]:
    """Returns what computes the first blocks; see backends.first_blocks_computed_by."""
    check_files(path, manifest)
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
        "int8_sums": INT8_SUMS,
        "openvino": ov.__version__,
        "cpu": {**cpu(), "cores": cores()},
    }
    cached = cache_path(path, config["PERFORMANCE_HINT"].lower(), depends_on)
    blob = read_compiled(cached)
    if blob is not None:
        with contextlib.suppress(RuntimeError):  # OpenVINO refuses it: it is compiled anew
            return core.import_model(io.BytesIO(blob), "CPU", config)
    compiled = compile_model(core, path, config, block_outputs)
    exported = io.BytesIO()
    compiled.export_model(exported)
    keep_compiled(cached, exported.getvalue())
    return compiled


def compile_model(core: Any, path: Path, config: Dict[str, str], block_outputs: Optional[Shapes]) -> Any:
    """Compiles the model at `path`; without its first blocks, if CPU blocks compute the outputs `block_outputs`."""
    if block_outputs is None and not saturates():
        return core.compile_model(str(path), "CPU", config)
    model = core.read_model(str(path))
    if saturates():
        narrow_weights(model)
    return core.compile_model(
        model if block_outputs is None else remove_first_blocks(model, block_outputs), "CPU", config
    )


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
        self.process = os.getpid()

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs arrays by input name. Returns the outputs by name. Raises UserError in a forked process."""
        check_process(self.process)
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
