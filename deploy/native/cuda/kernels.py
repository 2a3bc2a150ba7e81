"""Our CUDA kernels (letterbox.cu, nms.cu), compiled by nvcc for the GPU at hand and kept in the engine's folder.

nvcc is part of the CUDA toolkit, which JetPack brings and pycuda needs to be installed. It is asked once for an engine:
the next load takes what was kept.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.deploy.runtime.compiled_cache import cache_path, keep_compiled, read_compiled

SOURCES = Path(__file__).resolve().parent
USUAL_PLACE = "/usr/local/cuda/bin"  # JetPack's, which is not on its PATH


def compiled_kernels(name: str, architecture: str, engine: Path) -> bytes:
    """NAME.cu for an architecture ("sm_87"), as a cubin. Raises UserError, a reason, if it cannot be compiled."""
    sources = {path.name: sha256(path) for path in (SOURCES / f"{name}.cu", SOURCES / f"{name}.h")}
    kept = cache_path(engine, name, {"architecture": architecture, "sources": sources})
    binary = read_compiled(kept)
    if binary is None:
        binary = compile_cubin(name, architecture)
        keep_compiled(kept, binary)
    return binary


def compile_cubin(name: str, architecture: str) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        cubin = Path(scratch) / f"{name}.cubin"
        command = [find_nvcc(), "-cubin", f"-arch={architecture}", "-o", str(cubin), str(SOURCES / f"{name}.cu")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            reason = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{command[0]} cannot compile {name}.cu for {architecture}: {reason}")
        return cubin.read_bytes()


def find_nvcc() -> str:
    """nvcc's path: on PATH, in CUDA_HOME, or where CUDA is usually installed. UserError if it is nowhere."""
    places = [os.environ.get("PATH", os.defpath), USUAL_PLACE]
    if "CUDA_HOME" in os.environ:
        places.insert(1, os.path.join(os.environ["CUDA_HOME"], "bin"))
    found = shutil.which("nvcc", path=os.pathsep.join(places))
    if found is None:
        raise UserError("nvcc is not on PATH, in CUDA_HOME, or in " + USUAL_PLACE)
    return found
