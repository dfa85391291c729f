"""The GEMM that pointwise convolution and linear share: y[m, k] = sum over c of x[m, c] * w[k, c], with the epilogue."""
