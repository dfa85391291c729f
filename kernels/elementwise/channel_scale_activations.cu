// channel_scale.cu with every activation (device.cuh says why they are apart).
#define ALL_ACTIVATIONS
#include "channel_scale.cu"
