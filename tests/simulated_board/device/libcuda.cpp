// A small libcuda.so.1: the functions of the CUDA driver API that effedge calls, on the host's memory.
//
// Work waits in its stream until the stream is synchronized, so that a missing synchronization shows; a stream that is
// captured collects its work in a graph. Memory counts against the GPU's, is not zero at first, and needs a current
// context. A module is "cubin sm_NN", which stands for all kernels of deploy/native/cuda, compiled for the host.
//
// With SIMULATED_TRACE in the environment it prints to stderr what it destroys.
//
// /etc/simulated_gpu has the name, and the lines "capability 8 7", "memory_mib 8192". Without it there is no GPU.
//
// Source: the CUDA driver API's reference (names, parameters, error codes).

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "host_kernels.cpp"

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
typedef std::function<void()> Work;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NO_BINARY = 209,
       INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900 };

struct Stream {
  std::vector<Work> waiting, recorded;
  bool capturing = false;
};
struct Graph {
  std::vector<Work> work;
};

static std::mutex lock;
static std::map<CUdeviceptr, size_t> memory;
static std::set<Stream*> streams;
static size_t memory_used = 0, memory_mib = 0;
static char gpu_name[128];
static int major = 0, minor = 0, context;
static thread_local std::vector<void*> current;
static thread_local int captures = 0;  // of this thread: meanwhile it may not allocate

static bool gone = false;  // the context, which was released

static void destroyed(const char* what) {
  if (getenv("SIMULATED_TRACE")) fprintf(stderr, "destroyed: %s\n", what);
}

static CUresult enqueue(Stream* stream, Work work) {
  std::lock_guard<std::mutex> guard(lock);
  if (!streams.count(stream)) return INVALID_HANDLE;
  (stream->capturing ? stream->recorded : stream->waiting).push_back(std::move(work));
  return OK;
}

static CUresult allocate(CUdeviceptr* address, size_t size) {
  std::lock_guard<std::mutex> guard(lock);
  if (current.empty()) return INVALID_CONTEXT;
  if (captures) return CAPTURE_UNSUPPORTED;
  if (size == 0) return INVALID_VALUE;
  if (memory_used + size > memory_mib << 20) return OUT_OF_MEMORY;
  void* bytes = malloc(size);
  if (bytes == nullptr) return OUT_OF_MEMORY;
  memset(bytes, 0xCD, size);
  memory[*address = reinterpret_cast<CUdeviceptr>(bytes)] = size;
  memory_used += size;
  return OK;
}

static CUresult release(CUdeviceptr address) {
  std::lock_guard<std::mutex> guard(lock);
  if (gone) return INVALID_CONTEXT;
  if (!memory.count(address)) return INVALID_VALUE;
  destroyed("memory");
  memory_used -= memory[address];
  memory.erase(address);
  free(reinterpret_cast<void*>(address));
  return OK;
}

extern "C" {

// What the simulated TensorRT enqueues: a call of `function` with `number`.
CUresult simulated_enqueue(Stream* stream, void (*function)(long), long number) {
  return enqueue(stream, [=] { function(number); });
}
int simulated_context_is_gone() { return gone; }
int simulated_is_capturing(Stream* stream) { return stream->capturing; }

CUresult cuInit(unsigned) {
  FILE* file = fopen("/etc/simulated_gpu", "r");
  if (file == nullptr) return NO_DEVICE;
  const int fields = fscanf(file, "%127[^\n] capability %d %d memory_mib %zu", gpu_name, &major, &minor, &memory_mib);
  fclose(file);
  return fields == 4 ? OK : NO_DEVICE;
}
CUresult cuGetErrorString(CUresult status, const char** text) {
  static const std::map<int, const char*> texts = {
      {INVALID_VALUE, "invalid argument"}, {OUT_OF_MEMORY, "out of memory"},
      {NO_DEVICE, "no CUDA-capable device is detected"}, {INVALID_CONTEXT, "invalid device context"},
      {NO_BINARY, "no kernel image is available for execution on the device"},
      {INVALID_HANDLE, "invalid resource handle"}, {NOT_FOUND, "named symbol not found"},
      {CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"}};
  if (!texts.count(status)) return INVALID_VALUE;
  *text = texts.at(status);
  return OK;
}
CUresult cuDriverGetVersion(int* version) { return *version = 12060, OK; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, OK; }
CUresult cuDeviceGet(int* device, int number) { return *device = 0, number == 0 ? OK : INVALID_VALUE; }
CUresult cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "%s", gpu_name), OK; }
CUresult cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = memory_mib << 20, OK; }
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 18: return *value = 1, OK;  // integrated
    case 75: return *value = major, OK;
    case 76: return *value = minor, OK;
  }
  return INVALID_VALUE;
}
CUresult cuDevicePrimaryCtxRetain(void** handle, int) {
  return *handle = &context, gone = false, OK;
}
CUresult cuDevicePrimaryCtxRelease_v2(int) { return destroyed("CUDA context"), gone = true, OK; }
CUresult cuCtxGetCurrent(void** handle) { return *handle = current.empty() ? nullptr : current.back(), OK; }
CUresult cuCtxPushCurrent_v2(void* handle) { return current.push_back(handle), OK; }
CUresult cuCtxPopCurrent_v2(void** handle) {
  if (current.empty()) return INVALID_CONTEXT;
  *handle = current.back();
  current.pop_back();
  return OK;
}

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t size) { return allocate(address, size); }
CUresult cuMemFree_v2(CUdeviceptr address) { return release(address); }
CUresult cuMemHostAlloc(void** address, size_t size, unsigned) {
  return allocate(reinterpret_cast<CUdeviceptr*>(address), size);
}
CUresult cuMemFreeHost(void* address) { return release(reinterpret_cast<CUdeviceptr>(address)); }
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* address, void* host, unsigned) {
  return *address = reinterpret_cast<CUdeviceptr>(host), OK;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void* source, size_t size, Stream* stream) {
  return enqueue(stream, [=] { memcpy(reinterpret_cast<void*>(target), source, size); });
}
CUresult cuMemcpyDtoHAsync_v2(void* target, CUdeviceptr source, size_t size, Stream* stream) {
  return enqueue(stream, [=] { memcpy(target, reinterpret_cast<void*>(source), size); });
}

CUresult cuStreamCreate(Stream** stream, unsigned) {
  std::lock_guard<std::mutex> guard(lock);
  if (current.empty()) return INVALID_CONTEXT;
  streams.insert(*stream = new Stream);
  return OK;
}
CUresult cuStreamDestroy_v2(Stream* stream) {
  std::lock_guard<std::mutex> guard(lock);
  if (gone) return INVALID_CONTEXT;
  if (!streams.erase(stream)) return INVALID_HANDLE;
  destroyed("stream");
  delete stream;
  return OK;
}
CUresult cuStreamSynchronize(Stream* stream) {
  std::vector<Work> work;
  {
    std::lock_guard<std::mutex> guard(lock);
    if (!streams.count(stream)) return INVALID_HANDLE;
    if (stream->capturing) return CAPTURE_UNSUPPORTED;
    work.swap(stream->waiting);
  }
  for (Work& step : work) step();
  return OK;
}
CUresult cuStreamBeginCapture_v2(Stream* stream, int) {
  if (!streams.count(stream) || stream->capturing) return INVALID_HANDLE;
  stream->recorded.clear();
  stream->capturing = true;
  ++captures;
  return OK;
}
CUresult cuStreamEndCapture(Stream* stream, Graph** graph) {
  if (!streams.count(stream) || !stream->capturing) return INVALID_HANDLE;
  *graph = new Graph{stream->recorded};
  stream->capturing = false;
  --captures;
  return OK;
}
CUresult cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
  return *executable = new Graph(*graph), OK;
}
CUresult cuGraphLaunch(Graph* executable, Stream* stream) {
  for (const Work& step : executable->work)
    if (const CUresult status = enqueue(stream, step)) return status;
  return OK;
}
CUresult cuGraphDestroy(Graph* graph) { return delete graph, OK; }
CUresult cuGraphExecDestroy(Graph* graph) { return delete graph, OK; }

CUresult cuModuleLoadData(void** module, const void* image) {
  int architecture = 0;
  if (sscanf(static_cast<const char*>(image), "cubin sm_%d", &architecture) != 1 || architecture != 10 * major + minor)
    return NO_BINARY;
  return *module = &context, OK;
}
CUresult cuModuleUnload(void*) { return OK; }
CUresult cuModuleGetFunction(const char** function, void*, const char* name) {
  static const std::set<std::string> kernels = {"resize_horizontal", "letterbox", "nms"};
  const auto found = kernels.find(name);
  if (found == kernels.end()) return NOT_FOUND;
  return *function = found->c_str(), OK;
}
CUresult cuLaunchKernel(const char* function, unsigned grid, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                        Stream* stream, void** parameters, void**) {
  const std::string name = function;
  const auto pointer = [=](int index) { return *static_cast<uint8_t**>(parameters[index]); };
  const auto integer = [=](int index) { return *static_cast<int*>(parameters[index]); };
  const auto real = [=](int index) { return *static_cast<float*>(parameters[index]); };
  uint8_t *a = pointer(0), *b = pointer(1), *c = pointer(2);
  const int32_t* table = reinterpret_cast<int32_t*>(c);
  if (name == "resize_horizontal") {
    const int height = integer(3), width = integer(4), new_width = integer(5), taps = integer(6);
    return enqueue(stream, [=] { resize_horizontal(a, b, table, height, width, new_width, taps); });
  }
  if (name == "letterbox") {
    const int new_height = integer(3), new_width = integer(4), taps = integer(5), height = integer(6);
    const int width = integer(7), fill = integer(8);
    return enqueue(stream, [=] { letterbox(a, b, table, new_height, new_width, taps, height, width, fill); });
  }
  uint8_t *d = pointer(3), *e = pointer(4);
  const int count = integer(5), most = integer(6), images = grid;
  const float threshold = real(7), iou = real(8);
  return enqueue(stream, [=] {
    nms(images, reinterpret_cast<Box*>(a), reinterpret_cast<float*>(b), table, reinterpret_cast<Size*>(d),
        reinterpret_cast<int32_t*>(e), count, most, threshold, iou);
  });
}

}  // extern "C"
