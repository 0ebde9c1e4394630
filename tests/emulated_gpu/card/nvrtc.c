/* The compiler of kernels that PyTorch compiles when they are first called (exp2 is one): a program
   is one byte long and has one name. */
#include <stddef.h>

int nvrtcCreateProgram() { return 0; }
int nvrtcAddNameExpression() { return 0; }
int nvrtcCompileProgram() { return 0; }
int nvrtcDestroyProgram() { return 0; }
int nvrtcGetPTX() { return 0; }
int nvrtcGetCUBIN() { return 0; }
int nvrtcGetProgramLog() { return 0; }
const char *nvrtcGetErrorString() { return ""; }
int nvrtcVersion(int *major, int *minor) {
    *major = 12;
    *minor = 0;
    return 0;
}
static int one(size_t *size) {
    *size = 1;
    return 0;
}
int nvrtcGetPTXSize(void *program, size_t *size) { return one(size); }
int nvrtcGetCUBINSize(void *program, size_t *size) { return one(size); }
int nvrtcGetProgramLogSize(void *program, size_t *size) { return one(size); }
int nvrtcGetLoweredName(void *program, const char *asked, const char **name) {
    *name = asked;
    return 0;
}
