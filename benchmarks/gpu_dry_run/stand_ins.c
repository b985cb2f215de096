// CUDA's libraries for a machine without a GPU: a device that allocates memory and computes nothing. What isn't here,
// run.py adds as functions that return 0, "success". GPU_CAPABILITY says which GPU to be: "9.0" is an H100.
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t capacity(void) { // bytes of the device: GPU_GIGABYTES, or so many that they are never the limit
    const char *text = getenv("GPU_GIGABYTES");
    return (text ? atof(text) : 1000) * 1e9;
}

// What is asked of the GPU, told to a function of launches.py's: launch, copy, fill, wait or collective, and the name of
// the kernel or of the call.
void (*stand_in_watcher)(const char *kind, const char *name);
cudaStream_t stand_in_captures; // the stream that is captured into a graph, if any
unsigned long long stand_in_capture;
static void tell(const char *kind, const char *name) {
    if (stand_in_watcher)
        stand_in_watcher(stand_in_captures ? "captured" : kind, name);
}

static int major_version(void) {
    const char *version = getenv("GPU_CAPABILITY");
    return version ? version[0] - '0' : 9;
}
static int minor_version(void) {
    const char *version = getenv("GPU_CAPABILITY");
    return version ? version[2] - '0' : 0;
}
static int processors(void) { return major_version() == 7 ? 80 : major_version() == 8 ? 108 : 132; }
static int shared_memory(void) { // of a block, at most
    return major_version() == 7 ? 98304 : major_version() == 8 ? 166912 : 232448;
}

// The device ---------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) { return strcpy(id, "0000:00:00.0"), cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    sprintf(found->name, "no GPU: a stand-in for an sm_%d%d", major_version(), minor_version());
    found->major = major_version();
    found->minor = minor_version();
    found->totalGlobalMem = capacity();
    found->multiProcessorCount = processors();
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsPerMultiProcessor = 2048;
    found->maxBlocksPerMultiProcessor = 32;
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerBlockOptin = shared_memory();
    found->sharedMemPerMultiprocessor = shared_memory() + 1024;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->l2CacheSize = 50 << 20;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->memoryBusWidth = 5120;
    found->unifiedAddressing = found->concurrentKernels = 1;
    found->textureAlignment = 512;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr name, int device) {
    switch (name) {
    case cudaDevAttrComputeCapabilityMajor: *value = major_version(); break;
    case cudaDevAttrComputeCapabilityMinor: *value = minor_version(); break;
    case cudaDevAttrMultiProcessorCount: *value = processors(); break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = shared_memory(); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = shared_memory() + 1024; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    default: *value = 1;
    }
    return cudaSuccess;
}
// The driver's numbers for attributes are the runtime's.
int cuDeviceGetAttribute(int *value, int name, int device) { return cudaDeviceGetAttribute(value, name, device); }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int number) { return *device = 0, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = 0, *active = 1, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)8, 0; }
int cuCtxGetCurrent(void **context) { return *context = (void *)8, 0; }

// Memory -------------------------------------------------------------------------------------------------------------

static struct Block {
    char *start;
    size_t size;
    enum cudaMemoryType type;
    struct Block *next;
} *blocks;
static size_t held; // bytes of the device

static cudaError_t allocate(void **start, size_t size, enum cudaMemoryType type) { // pages cost nothing until written
    if (type == cudaMemoryTypeDevice && held + size > capacity())
        return cudaErrorMemoryAllocation;
    struct Block *block = malloc(sizeof *block);
    char *found = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    *block = (struct Block){found, size, type, blocks};
    blocks = block;
    held += type == cudaMemoryTypeDevice ? size : 0;
    return *start = found, cudaSuccess;
}
cudaError_t cudaMalloc(void **start, size_t size) { return allocate(start, size, cudaMemoryTypeDevice); }
cudaError_t cudaMallocAsync(void **start, size_t size, cudaStream_t stream) { return cudaMalloc(start, size); }
cudaError_t cudaHostAlloc(void **start, size_t size, unsigned flags) { return allocate(start, size, cudaMemoryTypeHost); }
cudaError_t cudaMallocHost(void **start, size_t size) { return allocate(start, size, cudaMemoryTypeHost); }
cudaError_t cudaFree(void *start) {
    for (struct Block **place = &blocks; *place; place = &(*place)->next)
        if ((*place)->start == start) {
            struct Block *block = *place;
            *place = block->next;
            held -= block->type == cudaMemoryTypeDevice ? block->size : 0;
            munmap(block->start, block->size);
            free(block);
            break;
        }
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *start) { return cudaFree(start); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    return *available = *total = capacity(), cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer) {
    memset(found, 0, sizeof *found);
    for (struct Block *block = blocks; block; block = block->next)
        if ((char *)pointer >= block->start && (char *)pointer < block->start + block->size) {
            found->type = block->type;
            found->devicePointer = found->hostPointer = (void *)pointer;
        }
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    tell("copy", "cudaMemcpy");
    tell("wait", "cudaMemcpy");
    return memmove(to, from, size), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    static const char *directions[] = {"host to host", "host to device", "device to host", "device to device", "default"};
    tell("copy", directions[kind]);
    if (kind == cudaMemcpyDeviceToHost && size <= 4) // a flag or a norm, which no kernel has computed: no, and 0
        memset(to, 0, size);
    else if (kind != cudaMemcpyDeviceToDevice && kind != cudaMemcpyDefault)
        memmove(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *start, int value, size_t size) {
    tell("fill", "cudaMemset");
    return memset(start, value, size), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *start, int value, size_t size, cudaStream_t stream) {
    return tell("fill", "cudaMemsetAsync"), cudaSuccess;
}

// Streams, events, launches ------------------------------------------------------------------------------------------

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return *stream = malloc(8), cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int p) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    return stand_in_captures = stream, stand_in_capture++, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    return stand_in_captures = 0, *graph = malloc(8), cudaSuccess;
}
static enum cudaStreamCaptureStatus status_of(cudaStream_t stream) {
    return stream && stream == stand_in_captures ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    return *status = status_of(stream), cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
    *status = status_of(stream);
    if (id)
        *id = stand_in_capture;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags) {
    return *made = malloc(8), cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    return tell("launch", "cudaGraphLaunch"), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return *event = malloc(8), cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return cudaEventCreate(event); }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    return *milliseconds = 1, cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->binaryVersion = 10 * major_version() + minor_version();
    found->ptxVersion = 80;
    found->maxDynamicSharedSizeBytes = shared_memory();
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *f, int threads, size_t shared) {
    return *count = 2, cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *f, int threads, size_t shared,
                                                                   unsigned flags) {
    return *count = 2, cudaSuccess;
}
void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[4];
    return handle;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = *block = (dim3){1, 1, 1};
    return *shared = 0, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return tell("wait", "cudaStreamSynchronize"), cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return tell("wait", "cudaEventSynchronize"), cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return tell("wait", "cudaDeviceSynchronize"), cudaSuccess; }

static struct Kernel {
    const void *function;
    const char *name;
    struct Kernel *next;
} *kernels;
void __cudaRegisterFunction(void **binary, const char *function, char *device_function, const char *name, int limit,
                            uint3 *thread, uint3 *block, dim3 *block_size, dim3 *grid_size, int *size) {
    struct Kernel *kernel = malloc(sizeof *kernel);
    *kernel = (struct Kernel){function, name, kernels};
    kernels = kernel;
}
static const char *kernel_name(const void *function) {
    for (struct Kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (kernel->function == function)
            return kernel->name;
    return "unknown";
}
cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    return tell("launch", stand_in_watcher ? kernel_name(f) : 0), cudaSuccess;
}
// What `kernel<<<…>>>()` becomes in CUDA 13
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *f) { return *kernel = (cudaKernel_t)f, cudaSuccess; }
cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    return tell("launch", stand_in_watcher ? kernel_name(f) : 0), cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **arguments) {
    return tell("launch", stand_in_watcher ? kernel_name(f) : 0), cudaSuccess;
}

static int nothing(void) { return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    if (result)
        *result = cudaDriverEntryPointSuccess;
    return *function = (void *)nothing, cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t error) { return "from a stand-in"; }
const char *cudaGetErrorName(cudaError_t error) { return "stand-in"; }

// What Triton asks of the driver
int cuModuleLoadData(void **module, const void *code) { return *module = (void *)8, 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return *function = strdup(name), 0; }
int cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned t, unsigned u, unsigned shared,
                   void *stream, void **arguments, void **extra) {
    return tell("launch", f), 0;
}
int cuLaunchKernelEx(void *config, void *f, void **arguments, void **extra) { return tell("launch", f), 0; }
int cuModuleGetLoadingMode(int *mode) { return *mode = 2, 0; }
int cuFuncGetAttribute(int *value, int name, void *function) { return *value = name == 0 ? 1024 : name == 4 ? 64 : 0, 0; }
int cuOccupancyMaxActiveClusters(int *count, void *function, void *config) { return *count = 8, 0; }

// Other libraries ----------------------------------------------------------------------------------------------------

int cublasCreate_v2(void **handle) { return *handle = malloc(64), 0; }
int cublasLtCreate(void **handle) { return *handle = malloc(64), 0; }
int cublasGetVersion_v2(void *handle, int *version) { return *version = 130000, 0; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *o, void *a, void *b, void *c, void *d, void *p, int n, void *found,
                                   int *count) {
    return memset(found, 0, 64), *count = 1, 0;
}
int cublasGemmEx(void) { return tell("launch", "cublasGemmEx"), 0; }
int cublasGemmStridedBatchedEx(void) { return tell("launch", "cublasGemmStridedBatchedEx"), 0; }
int cublasSgemm_v2(void) { return tell("launch", "cublasSgemm"), 0; }
int cublasSgemmStridedBatched(void) { return tell("launch", "cublasSgemmStridedBatched"), 0; }
int cublasLtMatmul(void) { return tell("launch", "cublasLtMatmul"), 0; }
size_t cudnnGetVersion(void) { return 92000; }
int ncclGetVersion(int *version) { return *version = 22907, 0; }
int ncclGetUniqueId(void *id) { return memset(id, 1, 128), 0; }
int ncclCommInitRankConfig(void **comm, int n, char id[128], int rank, void *config) { return *comm = malloc(64), 0; }
int ncclCommGetAsyncError(void *comm, int *error) { return *error = 0, 0; }
int ncclCommCount(void *comm, int *count) { return *count = 1, 0; }
int ncclAllReduce(void) { return tell("collective", "ncclAllReduce"), 0; }
int ncclReduce(void) { return tell("collective", "ncclReduce"), 0; }
int ncclAllGather(void) { return tell("collective", "ncclAllGather"), 0; }
int ncclReduceScatter(void) { return tell("collective", "ncclReduceScatter"), 0; }
int ncclBroadcast(void) { return tell("collective", "ncclBroadcast"), 0; }
const char *ncclGetErrorString(int error) { return ""; }
const char *ncclGetLastError(void *comm) { return ""; }
