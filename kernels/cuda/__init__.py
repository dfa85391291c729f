"""Backend "cuda": the ops in CUDA C++, compiled by NVRTC and launched through CuPy, or compiled by g++ and run on a CPU.

The kernels are kernels/<op>/*.cu; here are what they share (device.cuh, mma.cuh), their launchers, and the two ways to run a
launch. A launcher is `launches(call, tensors, out, target) -> list[CudaLaunch]`, as for Triton. Nothing here imports Triton,
and CuPy is imported at the first launch on a GPU only.
"""
