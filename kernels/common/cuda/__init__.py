"""What the CUDA C++ kernels share: device headers, launches as values, and the two ways to run one.

On a GPU a launch is compiled by NVRTC through CuPy; on a CPU g++ builds the same file. Nothing here imports Triton, and CuPy is
imported at the first launch on a GPU only.
"""
