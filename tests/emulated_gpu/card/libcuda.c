/* The driver of the emulated card: what PyTorch asks it directly. */
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    if (flags) *flags = 0;
    *active = 1;
    return 0;
}
int cuCtxGetCurrent(void **context) {
    static char here[64];
    *context = here;
    return 0;
}
int cuCtxSetCurrent(void *context) { return 0; }
/* kernels that PyTorch or Triton compiles when they are first called: loaded, never run */
int cuModuleLoadData(void **module, const void *image) {
    static char loaded[64];
    *module = loaded;
    return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    return 0;
}
int cuLaunchKernel() { return 0; }
int cuLaunchKernelEx() { return 0; }
int cuFuncSetAttribute() { return 0; }
int cuCtxSetLimit() { return 0; }
int cuCtxGetLimit(unsigned long *value, int limit) { return *value = 0; }
int cuFuncSetCacheConfig() { return 0; }
int cuGetErrorString(int error, const char **text) {
    *text = "";
    return 0;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) {
    *value = attribute ? 0 : 1024; /* threads a block; neither spills nor shared memory */
    return 0;
}
int cuDeviceGet(int *device, int ordinal) { return *device = 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = 96 << 10; /* of shared memory; nothing else is asked for */
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return cuCtxGetCurrent(context); }
int cuPointerGetAttribute(void *value, int attribute, void *pointer) {
    *(void **)value = pointer;
    return 0;
}
