"""Runs engines for CPUs on which OpenVINO does not run, by ONNX Runtime. The engine's file is the prepared ONNX
itself."""

import functools
import os
from pathlib import Path
from typing import Any, Callable, Dict, Union

import numpy as np
import onnxruntime

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.backends import Backend, check_process
from effedge.deploy.runtime.manifest import loaded_file
from effedge.deploy.runtime.onnx_external import external_files
from effedge.deploy.timing.machine import cores, has_vnni

# Levels of the log. Warnings are about ONNX Runtime's own passes, and no user could act on them.
LOG_ERRORS = 3
LOG_FATAL = 4  # an error is raised, and need not be printed too
# A session's level does not hold for what an operator says while it is made, such as that an attribute is deprecated.
onnxruntime.set_default_logger_severity(LOG_ERRORS)
# It moves a Pad by zeros into a MaxPool, which pads by minus infinity, and a Pad into a pool that may not have so much.
WRONG_OPTIMIZERS = ["Pad_Fusion"]
# Of FP8 models: it takes FP8's pairs for INT8's, makes kernels of them that do not exist (NO_PAIR_KERNELS prevents it),
# and drops a Relu in front of FP8's QuantizeLinear, as if its zero point of 0 were the lowest number.
WRONG_FOR_FP8 = ["ClipQuantRewrite", "ReluQuantRewrite"]
NO_PAIR_KERNELS = ("session.disable_quant_qdq", "1")
# An x86 CPU without VNNI adds two products of INT8 in 16 bits, where they saturate: det-lite0's last layers are 32 dB
# from what its INT8 ONNX says, and 41 dB with these kernels, in 4% more time.
EXACT_SUMS = "session.x64quantprecision"


def load(path: Path, manifest: Manifest, throughput: bool = False) -> Backend:
    """Opens the ONNX at `path`.

    For latency all cores compute one run; for throughput as many runs as there are cores are parallel, each on one
    core.
    Raises UserError if ONNX Runtime refuses the model, or the manifest does not list a file that holds its weights.
    """
    if "files" in manifest:
        for name in external_files(path):
            loaded_file(path.parent, manifest, name)

    def new_options() -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        options.intra_op_num_threads = 1 if throughput else cores()
        return options

    try:
        session = make_session(str(path), new_options, manifest["backend"].get("fp8", False))
    except Exception as error:  # ONNX Runtime's errors have no common class but Exception
        built = manifest["backend"].get("version")
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load '{path}', built by {built} ({reason}): "
            "build the engine again here"
        ) from error
    return OnnxRuntimeEngine(session, cores() if throughput else 1)


def make_session(model: Union[str, bytes], new_options: Callable[[], Any], fp8: bool) -> Any:
    """Makes a session without the optimizers that change results.

    Args:
        model: the path of an ONNX file, or its bytes.
        new_options: makes a SessionOptions, of each try another.
        fp8: the model has Q/DQ pairs of FP8.
    """
    wrong = [*WRONG_OPTIMIZERS, *WRONG_FOR_FP8] if fp8 else WRONG_OPTIMIZERS

    def make(options: Any) -> Any:
        if fp8:
            options.add_session_config_entry(*NO_PAIR_KERNELS)
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(model, options, providers=providers, disabled_optimizers=wrong)

    if has_vnni():
        return make(new_options())
    exact = new_options()
    exact.add_session_config_entry(EXACT_SUMS, "1")
    exact.log_severity_level = LOG_FATAL
    try:
        return make(exact)
    except Exception:  # ONNX Runtime's errors have no common class but Exception
        # It cannot make these kernels for layers that share weights, or their zero points. Where the model itself is
        # wrong, the error comes again.
        session = make(new_options())
        say_saturating()
        return session


@functools.lru_cache(maxsize=None)  # says it once
def say_saturating() -> None:
    log.info("note: layers share INT8 weights, so on this CPU, without VNNI, ONNX Runtime's sums of INT8 may saturate")


class OnnxRuntimeEngine:
    """An open session, which several threads may call at once."""

    def __init__(self, session: Any, parallel: int) -> None:
        self.session, self.parallel = session, parallel
        self.outputs = [output.name for output in session.get_outputs()]
        self.process = os.getpid()

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs arrays by input name. Returns the outputs by name. Raises UserError in a forked process."""
        check_process(self.process)
        return dict(zip(self.outputs, self.session.run(self.outputs, feeds)))
