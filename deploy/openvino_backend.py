"""Engines for the CPU, run by OpenVINO."""

import io
import threading
from pathlib import Path
from typing import Any, Dict

import numpy as np
import openvino as ov

from deploy.backends import Backend
from deploy.cli import UserError
from deploy.compiled_cache import cache_path, keep_compiled, read_compiled
from deploy.machine import cores, cpu


def load(path: Path, manifest: Dict[str, Any], throughput: bool = False) -> Backend:
    """Compile the OpenVINO model at `path` for this CPU, with the settings of the manifest's `backend.config`.

    For latency all cores compute one run; for throughput OpenVINO has several runs side by side, on a core or a few
    each. Raises UserError if OpenVINO refuses the model.
    """
    hint = "THROUGHPUT" if throughput else "LATENCY"
    config = {"PERFORMANCE_HINT": hint, **manifest["backend"].get("config", {})}
    try:
        compiled = load_compiled(path, manifest, config)
    except RuntimeError as error:
        built = manifest["backend"].get("version")
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"OpenVINO {ov.__version__} cannot load '{path}', built by {built} ({reason}): build the engine again here"
        ) from error
    return OpenVinoEngine(compiled)


def load_compiled(path: Path, manifest: Dict[str, Any], config: Dict[str, str]) -> Any:
    """The compiled model, from the folder's cache if it was compiled here before. A model that is in no engine's folder
    (`manifest` lists no files) has no cache."""
    core = ov.Core()
    if not manifest.get("files"):
        return core.compile_model(str(path), "CPU", config)
    here = {"openvino": ov.__version__, "cpu": {**cpu(), "cores": cores()}}
    depends_on = {"config": config, "files": manifest["files"], **here}
    kept = cache_path(path, config["PERFORMANCE_HINT"].lower(), depends_on)
    blob = read_compiled(kept)
    if blob is not None:
        return core.import_model(io.BytesIO(blob), "CPU", config)
    compiled = core.compile_model(str(path), "CPU", config)
    exported = io.BytesIO()
    compiled.export_model(exported)
    keep_compiled(kept, exported.getvalue())
    return compiled


class OpenVinoEngine:
    """A compiled model; each thread that calls it has an infer request of its own, so that none waits for another."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.names = [(name, index) for index, output in enumerate(compiled.outputs) for name in output.get_names()]
        self.of_thread = threading.local()

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run arrays by input name. Returns the outputs by name."""
        if not hasattr(self.of_thread, "request"):
            self.of_thread.request = self.compiled.create_infer_request()
        results = self.of_thread.request.infer(feeds, share_inputs=True)  # not shared: the outputs, which may be kept
        return {name: results[index] for name, index in self.names}
