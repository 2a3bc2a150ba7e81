"""Calls the CUDA driver's library, libcuda, by ctypes: the part of pycuda.driver's interface that gpu.py uses, for
boards without pycuda. libcuda comes with the NVIDIA driver.

Each function below has the same parameters in CUDA 11.4 (JetPack 5), 12.6 (JetPack 6) and 13 (JetPack 7), under the
same symbol. cuda.h maps a function's name to the symbol of its newest version by macros, so these are named here as the
library exports them: cuMemAlloc, for example, still is the function of CUDA 3.1, with 32 bits for an address.
cuGraphInstantiate changed its parameters in CUDA 12, and cuGraphInstantiateWithFlags (since 11.4) did not. cuCtxCreate
changed in CUDA 13, and the primary context does without it.

Source: the CUDA driver API's reference and cuda.h.
"""

import ctypes
import os
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Dict, Sequence, Tuple

if TYPE_CHECKING:
    import numpy as np

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
DECLARATIONS = """
CUresult cuInit(unsigned int);
CUresult cuGetErrorString(CUresult, const char **);
CUresult cuDeviceGet(CUdevice *, int);
CUresult cuDeviceGetName(char *, int, CUdevice);
CUresult cuDeviceGetAttribute(int *, CUdevice_attribute, CUdevice);
CUresult cuDeviceTotalMem_v2(size_t *, CUdevice);
CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice);
CUresult cuCtxGetCurrent(CUcontext *);
CUresult cuCtxPushCurrent_v2(CUcontext);
CUresult cuCtxPopCurrent_v2(CUcontext *);
CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemHostAlloc(void **, size_t, unsigned int);
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *, void *, unsigned int);
CUresult cuMemFreeHost(void *);
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr, const void *, size_t, CUstream);
CUresult cuMemcpyDtoHAsync_v2(void *, CUdeviceptr, size_t, CUstream);
CUresult cuStreamCreate(CUstream *, unsigned int);
CUresult cuStreamSynchronize(CUstream);
CUresult cuStreamDestroy_v2(CUstream);
CUresult cuModuleLoadData(CUmodule *, const void *);
CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *);
CUresult cuModuleUnload(CUmodule);
CUresult cuLaunchKernel(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
                        unsigned int, CUstream, void **, void **);
CUresult cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
CUresult cuStreamEndCapture(CUstream, CUgraph *);
CUresult cuGraphInstantiateWithFlags(CUgraphExec *, CUgraph, unsigned long long);
CUresult cuGraphLaunch(CUgraphExec, CUstream);
CUresult cuGraphDestroy(CUgraph);
CUresult cuGraphExecDestroy(CUgraphExec);
"""
# Handles are pointers to structures that only the driver knows; enumerations are ints.
TYPES: Dict[str, Any] = {
    **dict.fromkeys(["int", "CUresult", "CUdevice", "CUdevice_attribute", "CUstreamCaptureMode"], ctypes.c_int),
    **dict.fromkeys(["CUcontext", "CUstream", "CUmodule", "CUfunction", "CUgraph", "CUgraphExec"], ctypes.c_void_p),
    **{"unsigned int": ctypes.c_uint, "size_t": ctypes.c_size_t, "char *": ctypes.c_char_p, "void *": ctypes.c_void_p},
    **dict.fromkeys(["unsigned long long", "CUdeviceptr"], ctypes.c_ulonglong),
}
KERNEL_TYPES: Dict[str, Any] = {  # as in the module struct
    "P": ctypes.c_void_p, "i": ctypes.c_int, "I": ctypes.c_uint, "f": ctypes.c_float,
}  # fmt: skip


class device_attribute:
    """Values of CUdevice_attribute."""

    INTEGRATED, COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 18, 75, 76


class host_alloc_flags:
    """Flags of cuMemHostAlloc."""

    DEVICEMAP = 2


class Error(Exception):
    """An error of CUDA, or the lack of its library."""


class MemoryError(Error):
    """Out of memory, on the GPU or of memory that can be pinned."""


@lru_cache(maxsize=None)
def declared_functions() -> Dict[str, Tuple[Any, ...]]:
    """Returns the ctypes of the parameters of each declared function."""
    functions = {}
    for declaration in " ".join(DECLARATIONS.split()).split(";")[:-1]:
        name, _, parameters = declaration.partition("CUresult ")[2].partition("(")
        functions[name] = tuple(ctypes_of(text.strip()) for text in parameters.rstrip(") ").split(","))
    return functions


def ctypes_of(text: str) -> Any:
    """Returns the type of ctypes for a type of C."""
    text = text.replace("const ", "")
    return TYPES[text] if text in TYPES else ctypes.POINTER(ctypes_of(text[:-1].strip()))


@lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """Loads libcuda. Raises Error, with the reason, where that is not possible."""
    try:
        loaded = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Error(str(error)) from error
    for name, types in declared_functions().items():
        if hasattr(loaded, name):  # an earlier driver may serve callers that need only a part
            getattr(loaded, name).argtypes = types
    return loaded


def call(name: str, *arguments: Any) -> None:
    """Calls a function of libcuda. Raises Error if it fails or is missing."""
    if not hasattr(library(), name):
        raise Error(f"{LIBRARY} has no {name}: the driver is older than CUDA 11.4")
    check(name, getattr(library(), name)(*arguments))


def check(name: str, status: int) -> None:
    """Raises Error, with CUDA's text, if a function's status is not 0."""
    if status:
        text = ctypes.c_char_p()
        library().cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or f"error {status}".encode()).decode(errors="replace")
        raise (MemoryError if status == OUT_OF_MEMORY else Error)(f"{name.partition('_')[0]} failed: {reason}")


def result_of(name: str, *arguments: Any) -> int:
    """Calls a function of libcuda that writes a number or a handle to its first parameter, and returns that."""
    result = declared_functions()[name][0]._type_()
    call(name, ctypes.byref(result), *arguments)
    return result.value or 0


def init() -> None:
    call("cuInit", 0)


class Device:
    """A GPU, by its number."""

    def __init__(self, number: int) -> None:
        self.number = result_of("cuDeviceGet", number)

    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        call("cuDeviceGetName", text, len(text), self.number)
        return text.value.decode(errors="replace")

    def get_attribute(self, attribute: int) -> int:
        return result_of("cuDeviceGetAttribute", attribute, self.number)

    def compute_capability(self) -> Tuple[int, int]:
        major, minor = device_attribute.COMPUTE_CAPABILITY_MAJOR, device_attribute.COMPUTE_CAPABILITY_MINOR
        return self.get_attribute(major), self.get_attribute(minor)

    def total_memory(self) -> int:
        return result_of("cuDeviceTotalMem_v2", self.number)

    def retain_primary_context(self) -> "Context":
        return Context(result_of("cuDevicePrimaryCtxRetain", self.number))


class Context:
    """A context that a thread can make current."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def push(self) -> None:
        call("cuCtxPushCurrent_v2", self.handle)

    def pop(self) -> None:
        result_of("cuCtxPopCurrent_v2")


class Resource:
    """A handle or an address that is destroyed with this object, in the context that was current when it was made."""

    def __init__(self, handle: int, destroy: str) -> None:
        self.handle = handle
        destruction = weakref.finalize(self, destroy_in, result_of("cuCtxGetCurrent"), destroy, handle)
        destruction.atexit = False  # what is left when the process ends, its end destroys

    def __int__(self) -> int:
        return self.handle


def destroy_in(context: int, destroy: str, handle: int) -> None:
    """Destroys a handle. An error is ignored: it is the consequence of an earlier one."""
    if library().cuCtxPushCurrent_v2(context) == 0:
        getattr(library(), destroy)(handle)
        library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def mem_alloc(size: int) -> Resource:
    """Allocates memory of the GPU."""
    return Resource(result_of("cuMemAlloc_v2", size), "cuMemFree_v2")


class PinnedMemory(Resource):
    """Pinned memory of the host, which NumPy can use; with the flag DEVICEMAP the GPU can too."""

    def __init__(self, size: int, flags: int) -> None:
        super().__init__(result_of("cuMemHostAlloc", size, flags), "cuMemFreeHost")
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "version": 3, "data": (self.handle, False)}

    def get_device_pointer(self) -> int:
        return result_of("cuMemHostGetDevicePointer_v2", self.handle, 0)


def pagelocked_empty(size: int, dtype: Any, mem_flags: int = 0) -> "np.ndarray":
    """Returns an array of bytes, the only `dtype`, in pinned memory, whose `base` is the PinnedMemory."""
    import numpy as np  # engines/ asks for the GPU in commands that need no arrays

    if dtype is not np.uint8:
        raise TypeError(f"dtype {dtype}: expected uint8")
    return np.asarray(PinnedMemory(size, mem_flags))


class Stream(Resource):
    """A CUDA stream."""

    def __init__(self) -> None:
        super().__init__(result_of("cuStreamCreate", 0), "cuStreamDestroy_v2")

    def synchronize(self) -> None:
        call("cuStreamSynchronize", self.handle)


def memcpy_htod_async(target: Resource, source: "np.ndarray", stream: Stream) -> None:
    """Enqueues the copy of a contiguous array to the GPU."""
    call("cuMemcpyHtoDAsync_v2", target.handle, source.ctypes.data, source.nbytes, stream.handle)


def memcpy_dtoh_async(target: "np.ndarray", source: Resource, stream: Stream) -> None:
    """Enqueues the copy of memory of the GPU to a contiguous array."""
    call("cuMemcpyDtoHAsync_v2", target.ctypes.data, source.handle, target.nbytes, stream.handle)


class Module(Resource):
    """Compiled kernels."""

    def __init__(self, binary: bytes) -> None:
        super().__init__(result_of("cuModuleLoadData", binary), "cuModuleUnload")

    def get_function(self, name: str) -> "Kernel":
        return Kernel(self, result_of("cuModuleGetFunction", self.handle, name.encode()))


module_from_buffer = Module


class Kernel:
    """A kernel of a module."""

    def __init__(self, module: Module, handle: int) -> None:
        self.module, self.handle = module, handle  # it may be launched as long as the module is there

    def prepare(self, types: str) -> "Kernel":
        """Sets the types of the parameters, as in the module struct; returns the kernel."""
        self.types = [KERNEL_TYPES[letter] for letter in types]
        return self

    def prepared_async_call(
        self, grid: Sequence[int], block: Sequence[int], stream: Stream, *values: Any, shared_size: int = 0
    ) -> None:
        """Enqueues a launch. `grid` and `block` are sizes in up to three dimensions, `shared_size` is in bytes."""
        if len(values) != len(self.types):
            raise TypeError(f"{len(values)} parameters: expected {len(self.types)}")
        parameters = [kind(value) for kind, value in zip(self.types, values)]
        addresses = (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, parameters))
        sizes = [*grid, 1, 1][:3] + [*block, 1, 1][:3]
        call("cuLaunchKernel", self.handle, *sizes, shared_size, stream.handle, addresses, None)
