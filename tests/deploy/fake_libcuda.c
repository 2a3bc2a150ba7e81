// A libcuda for tests: hands each call, as its name and its arguments in 64 bits, to a function of Python
// (fake_cuda.py). Without one each call returns the status in FAKE_CUDA_STATUS, 0 by default.
//
// The prototypes are those of the CUDA driver API's reference; with -DWITH_CUDA_H the compiler compares them to cuda.h.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef WITH_CUDA_H
#include <cuda.h>
#else
typedef int CUresult;
typedef int CUdevice;
typedef int CUdevice_attribute;
typedef int CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
#endif

typedef int (*Handler)(const char *name, int count, const uint64_t *arguments);
static Handler handler;

void set_handler(Handler function) { handler = function; }

static int hand_over(const char *name, int count, const uint64_t *arguments) {
  const char *status = getenv("FAKE_CUDA_STATUS");
  return handler ? handler(name, count, arguments) : status ? atoi(status) : 0;
}

#define RETURN(...)                              \
  {                                              \
    const uint64_t arguments[] = {__VA_ARGS__};  \
    return hand_over(__func__, sizeof arguments / sizeof arguments[0], arguments); \
  }
#define N(value) ((uint64_t)(value))

CUresult cuInit(unsigned int flags) RETURN(flags)
CUresult cuGetErrorString(CUresult status, const char **text) RETURN(N(status), N(text))
CUresult cuDeviceGet(CUdevice *device, int number) RETURN(N(device), N(number))
CUresult cuDeviceGetName(char *name, int size, CUdevice device) RETURN(N(name), N(size), N(device))
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
  RETURN(N(value), N(which), N(device))
CUresult cuDeviceTotalMem_v2(size_t *size, CUdevice device) RETURN(N(size), N(device))
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) RETURN(N(context), N(device))
CUresult cuCtxGetCurrent(CUcontext *context) RETURN(N(context))
CUresult cuCtxPushCurrent_v2(CUcontext context) RETURN(N(context))
CUresult cuCtxPopCurrent_v2(CUcontext *context) RETURN(N(context))
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) RETURN(N(address), size)
CUresult cuMemFree_v2(CUdeviceptr address) RETURN(address)
CUresult cuMemHostAlloc(void **address, size_t size, unsigned int flags) RETURN(N(address), size, flags)
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *host, unsigned int flags)
  RETURN(N(address), N(host), flags)
CUresult cuMemFreeHost(void *address) RETURN(N(address))
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, CUstream stream)
  RETURN(target, N(source), size, N(stream))
CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, CUstream stream)
  RETURN(N(target), source, size, N(stream))
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) RETURN(N(stream), flags)
CUresult cuStreamSynchronize(CUstream stream) RETURN(N(stream))
CUresult cuStreamDestroy_v2(CUstream stream) RETURN(N(stream))
CUresult cuModuleLoadData(CUmodule *module, const void *image) RETURN(N(module), N(image))
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
  RETURN(N(function), N(module), N(name))
CUresult cuModuleUnload(CUmodule module) RETURN(N(module))
CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_size,
                        CUstream stream, void **parameters, void **extra)
  RETURN(N(function), grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_size, N(stream), N(parameters),
         N(extra))
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) RETURN(N(stream), N(mode))
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) RETURN(N(stream), N(graph))
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags)
  RETURN(N(executable), N(graph), flags)
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) RETURN(N(executable), N(stream))
CUresult cuGraphDestroy(CUgraph graph) RETURN(N(graph))
CUresult cuGraphExecDestroy(CUgraphExec executable) RETURN(N(executable))
