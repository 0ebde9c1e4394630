/* A CUDA runtime without a GPU, preloaded in front of the real one.
 *
 * PyTorch sees one card of the capability in EMULATED_GPU (such as "9.0"), with EMULATED_GPU_MIB
 * of memory. Device memory is host memory, copies are copied at once, and kernels do nothing: what
 * a kernel should have written is whatever was there. So types, shapes, choices, allocations and
 * control flow are real; values and times are not.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* what crt/host_defines.h would define, which no wheel brings */
#define __host__
#define __device__
#define __forceinline__ inline
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDA_CB
#include <cuda_runtime_api.h>
#undef cudaGetDeviceProperties

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static void capability(int *major, int *minor) {
    const char *text = getenv("EMULATED_GPU");
    if (!text || sscanf(text, "%d.%d", major, minor) != 2) {
        fprintf(stderr, "EMULATED_GPU: '%s' is no capability such as 9.0\n", text ? text : "");
        exit(2);
    }
}

static size_t total_memory(void) { return (size_t)number("EMULATED_GPU_MIB", 80 << 10) << 20; }

/* ---- what the host waited for, which tests ask */
enum { SYNCHRONIZED, COPIED_PAGEABLE, LAUNCHED, KINDS };
static unsigned long counts[KINDS];
unsigned long emulated_count(int kind) { return counts[kind]; }

/* ---- the card */
static cudaError_t put(int *where, int value) {
    *where = value;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) { return put(count, 1); }
cudaError_t cudaGetDevice(int *device) { return put(device, 0); }
cudaError_t cudaDriverGetVersion(int *version) { return put(version, CUDART_VERSION); }
cudaError_t cudaRuntimeGetVersion(int *version) { return put(version, CUDART_VERSION); }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    int *blocks, const void *kernel, int threads, size_t shared) {
    return put(blocks, 2);
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, const void *kernel, int threads, size_t shared, unsigned flags) {
    return put(blocks, 2);
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *facts, const void *kernel) {
    memset(facts, 0, sizeof *facts);
    facts->maxThreadsPerBlock = 1024;
    facts->numRegs = 32;
    int major, minor;
    capability(&major, &minor);
    facts->ptxVersion = facts->binaryVersion = 10 * major + minor;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *card, int device) {
    memset(card, 0, sizeof *card);
    strcpy(card->name, "emulated GPU");
    memset(&card->uuid, 7, sizeof card->uuid);
    capability(&card->major, &card->minor);
    int volta = card->major == 7;
    card->totalGlobalMem = total_memory();
    card->multiProcessorCount = volta ? 80 : card->major == 8 ? 108 : 132;
    card->warpSize = 32;
    card->maxThreadsPerBlock = 1024;
    card->maxThreadsPerMultiProcessor = 2048;
    card->regsPerBlock = card->regsPerMultiprocessor = 65536;
    card->sharedMemPerBlock = 48 << 10;
    card->sharedMemPerMultiprocessor = volta ? 96 << 10 : 164 << 10;
    card->sharedMemPerBlockOptin = volta ? 96 << 10 : card->minor == 6 ? 99 << 10 : 163 << 10;
    card->l2CacheSize = 40 << 20;
    card->maxGridSize[0] = 0x7fffffff;
    card->maxGridSize[1] = card->maxGridSize[2] = 65535;
    card->maxThreadsDim[0] = card->maxThreadsDim[1] = 1024;
    card->maxThreadsDim[2] = 64;
    return cudaSuccess;
}
/* CUDA 12's name for it */
cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *card, int device) {
    return cudaGetDeviceProperties(card, device);
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
    struct cudaDeviceProp card;
    cudaGetDeviceProperties(&card, device);
    switch (which) {
        case cudaDevAttrComputeCapabilityMajor: return put(value, card.major);
        case cudaDevAttrComputeCapabilityMinor: return put(value, card.minor);
        case cudaDevAttrMultiProcessorCount: return put(value, card.multiProcessorCount);
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            return put(value, (int)card.sharedMemPerBlockOptin);
        case cudaDevAttrMaxSharedMemoryPerBlock: return put(value, (int)card.sharedMemPerBlock);
        case cudaDevAttrMaxThreadsPerBlock: return put(value, card.maxThreadsPerBlock);
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            return put(value, card.maxThreadsPerMultiProcessor);
        case cudaDevAttrMaxGridDimX: return put(value, card.maxGridSize[0]);
        case cudaDevAttrMaxGridDimY: return put(value, card.maxGridSize[1]);
        case cudaDevAttrWarpSize: return put(value, card.warpSize);
        default: return put(value, 0);
    }
}

/* ---- memory: each block knows its size, so that the card can be full */
static size_t in_use;
cudaError_t cudaMalloc(void **block, size_t size) {
    size_t *start;
    if (in_use + size > total_memory()) return cudaErrorMemoryAllocation;
    char *whole = calloc(1, size + 2 * 512); /* zero, and only taken where it is written to */
    if (!whole) return cudaErrorMemoryAllocation;
    in_use += size;
    *block = whole + 1024 - (size_t)whole % 512;
    start = (size_t *)*block - 2;
    start[0] = size;
    start[1] = (size_t)whole;
    return cudaSuccess;
}
cudaError_t cudaFree(void *block) {
    if (block) {
        size_t *start = (size_t *)block - 2;
        in_use -= start[0];
        free((void *)start[1]);
    }
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = total_memory();
    *available = *total - in_use;
    return cudaSuccess;
}

/* pinned host memory, from the newest block on */
struct pinned {
    struct pinned *older;
    size_t size;
};
static struct pinned *newest;
static pthread_mutex_t pinning = PTHREAD_MUTEX_INITIALIZER;
cudaError_t cudaHostAlloc(void **block, size_t size, unsigned flags) {
    struct pinned *head = malloc(sizeof *head + size);
    if (!head) return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&pinning);
    *head = (struct pinned){newest, size};
    newest = head;
    pthread_mutex_unlock(&pinning);
    *block = head + 1;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *block) {
    pthread_mutex_lock(&pinning);
    struct pinned **at = &newest;
    while (*at && (void *)(*at + 1) != block) at = &(*at)->older;
    struct pinned *found = *at;
    if (found) *at = found->older;
    pthread_mutex_unlock(&pinning);
    free(found);
    return cudaSuccess;
}
static int is_pinned(const void *pointer) {
    pthread_mutex_lock(&pinning);
    struct pinned *block = newest;
    while (block && !((char *)pointer >= (char *)(block + 1) &&
                      (char *)pointer < (char *)(block + 1) + block->size))
        block = block->older;
    pthread_mutex_unlock(&pinning);
    return block != NULL;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *facts, const void *pointer) {
    memset(facts, 0, sizeof *facts);
    facts->type = is_pinned(pointer) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}
/* pageable memory is staged before an asynchronous copy returns */
cudaError_t cudaMemcpyAsync(
    void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) counts[COPIED_PAGEABLE]++;
    if (kind == cudaMemcpyDeviceToHost && !is_pinned(to)) counts[COPIED_PAGEABLE]++;
    memmove(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    counts[SYNCHRONIZED]++;
    memmove(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *where, int value, size_t size) {
    memset(where, value, size);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *where, int value, size_t size, cudaStream_t stream) {
    return cudaMemset(where, value, size);
}

/* ---- streams and events: handles, and no order to keep */
static cudaError_t synchronized(void) {
    counts[SYNCHRONIZED]++;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return synchronized(); }
cudaError_t cudaDeviceSynchronize(void) { return synchronized(); }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return synchronized(); }
cudaError_t cudaLaunchKernel(
    const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
    cudaStream_t stream) {
    counts[LAUNCHED]++;
    return cudaSuccess;
}
/* CUDA 13's name for it */
cudaError_t __cudaLaunchKernel(
    void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    counts[LAUNCHED]++;
    return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(
    const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    counts[LAUNCHED]++;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    return (*stream = malloc(8)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    return put(greatest, -5);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    return (*event = malloc(8)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    *ms = 1.0f;
    return cudaSuccess;
}

/* ---- inside PyTorch: c10::cuda::hasPrimaryContext would ask the driver for one */
int _ZN3c104cuda17hasPrimaryContextEa(signed char device) { return 1; }
