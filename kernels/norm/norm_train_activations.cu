// norm_train.cu with every activation (device.cuh says why they are apart).
#define ALL_ACTIVATIONS
#include "norm_train.cu"
