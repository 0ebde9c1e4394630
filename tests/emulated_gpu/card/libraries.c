/* cuBLAS without a GPU, and PyTorch told to leave cuDNN alone where real tensors run.
 *
 * cuDNN plans for a real card, so convolutions and norms must take PyTorch's own kernels, which
 * launch nothing here. EMULATED_GPU_RUNS=1 says so; without it, choices are those of a card.
 */
#include <dlfcn.h>
#include <stdlib.h>

static int make(void **handle) { return (*handle = calloc(1, 64)) ? 0 : 1; }
int cublasCreate_v2(void **handle) { return make(handle); }
int cublasLtMatmulDescCreate(void **handle) { return make(handle); }
int cublasLtMatrixLayoutCreate(void **handle) { return make(handle); }
int cublasLtMatmulPreferenceCreate(void **handle) { return make(handle); }
int cublasGetMathMode(void *handle, int *mode) { return *mode = 0; }
int cublasGetPointerMode_v2(void *handle, int *mode) { return *mode = 0; }
int cublasLtMatmulAlgoGetHeuristic(
    void *handle, void *what, void *a, void *b, void *c, void *d, void *preference, int wanted,
    void *found, int *number) {
    *number = 1;
    return 0;
}

/* at::Context's answers to "may cuDNN be used" and "for attention, too": PyTorch's own, unless real
   tensors run */
#define UNLESS_IT_RUNS(name)                                             \
    char name(void *context) {                                           \
        static char (*real)(void *);                                     \
        if (getenv("EMULATED_GPU_RUNS")) return 0;                       \
        if (!real) {                                                     \
            void *torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD); \
            real = (char (*)(void *))dlsym(torch, #name);                \
        }                                                                \
        return real(context);                                            \
    }
UNLESS_IT_RUNS(_ZNK2at7Context16userEnabledCuDNNEv)
UNLESS_IT_RUNS(_ZNK2at7Context19userEnabledCuDNNSDPEv)
