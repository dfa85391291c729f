"""Transposed convolution, by the phases of its stride, on the kernels of dense convolutions."""
