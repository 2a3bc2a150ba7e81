"""Compiles the CUDA kernels (letterbox.cu, nms.cu) by nvcc for the GPU at hand and keeps them in the engine's folder.

nvcc is part of the CUDA toolkit, which JetPack brings. It is called once for an engine: the next load takes the
compiled kernels from the folder.
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
DEFAULT_FOLDER = "/usr/local/cuda/bin"  # JetPack's, which is not on its PATH


def compiled_kernels(name: str, architecture: str, engine: Path, anew: bool = False) -> bytes:
    """Returns the cubin of NAME.cu for an architecture ("sm_87"), compiled `anew` or as it was kept. Raises UserError,
    with the reason, if it cannot be compiled."""
    sources = {path.name: sha256(path) for path in (SOURCES / f"{name}.cu", SOURCES / f"{name}.h")}
    cached = cache_path(engine, name, {"architecture": architecture, "sources": sources})
    binary = None if anew else read_compiled(cached)
    if binary is None:
        binary = compile_cubin(name, architecture)
        keep_compiled(cached, binary)
    return binary


def compile_cubin(name: str, architecture: str) -> bytes:
    """Compiles NAME.cu by nvcc. Raises UserError, with the reason, if that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        cubin = Path(scratch) / f"{name}.cubin"
        command = [find_nvcc(), "-cubin", f"-arch={architecture}", "-o", str(cubin), str(SOURCES / f"{name}.cu")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            reason = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{command[0]} cannot compile {name}.cu for {architecture}: {reason}")
        return cubin.read_bytes()


def find_nvcc() -> str:
    """Returns nvcc's path: on PATH, in CUDA_HOME, or where CUDA is installed by default. Raises UserError if it is
    nowhere."""
    folders = [os.environ.get("PATH", os.defpath), DEFAULT_FOLDER]
    if "CUDA_HOME" in os.environ:
        folders.insert(1, os.path.join(os.environ["CUDA_HOME"], "bin"))
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    if nvcc is None:
        raise UserError("nvcc is not on PATH, in CUDA_HOME, or in " + DEFAULT_FOLDER)
    return nvcc
