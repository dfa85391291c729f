"""A network as a plan: steps on our kernels in order, one arena for all that they write, one CUDA graph a shape."""
