"""Talks to the simulated GPU (tests/simulated_board/gpu.py) and to the simulated libcuda. For Python 3.8."""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
from typing import Any, Dict, List, Optional, Tuple

SOCKET = "/run/gpu/socket"
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_long)


def ask(do: str, *blobs: bytes, **fields: Any) -> Tuple[Dict[str, Any], List[bytes]]:
    """Sends a request with bytes; returns the answer with its bytes. Each is a length, JSON, then the bytes."""
    text = json.dumps({"do": do, "sizes": [len(blob) for blob in blobs], **fields}).encode()
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as file:
        connection.connect(SOCKET)
        connection.sendall(struct.pack("<I", len(text)) + text + b"".join(blobs))
        answer = json.loads(file.read(struct.unpack("<I", file.read(4))[0]))
        return answer, [file.read(size) for size in answer["sizes"]]


def libcuda() -> Optional[ctypes.CDLL]:
    """Returns the driver's library; None where it is missing or finds no GPU."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return library if library.cuInit(0) == 0 else None


def enqueue(stream: int, callback: Any, number: int) -> bool:
    """Enqueues a call of the CALLBACK with a number; False if there is no such stream."""
    library = ctypes.CDLL("libcuda.so.1")
    return library.simulated_enqueue(ctypes.c_void_p(stream), callback, ctypes.c_long(number)) == 0


def is_capturing(stream: int) -> bool:
    return bool(ctypes.CDLL("libcuda.so.1").simulated_is_capturing(ctypes.c_void_p(stream)))


def destroy(what: str) -> None:
    """Destroys a part of TensorRT; ends the process by SIGSEGV if the CUDA context is gone (NVIDIA/TensorRT#1632). With
    SIMULATED_TRACE in the environment, says so on stderr."""
    if "SIMULATED_TRACE" in os.environ:
        sys.stderr.write(f"destroyed: {what}\n")
        sys.stderr.flush()
    if ctypes.CDLL("libcuda.so.1").simulated_context_is_gone():
        os.kill(os.getpid(), signal.SIGSEGV)
