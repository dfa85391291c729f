// implicit_gemm.cu with every activation (device.cuh says why they are apart).
#define ALL_ACTIVATIONS
#include "implicit_gemm.cu"
