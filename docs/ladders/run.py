"""Runs the ladders: every step of a kernel, held to torch, with what the compiler made of it.

    python docs/ladders/run.py [depthwise] [gemm]

On a GPU the steps are timed; without one they run in the host build, and only their machine code is compared (cuda-core needed).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.launch import cdiv

HERE = Path(__file__).resolve().parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def depthwise() -> Iterator[tuple[CudaLaunch, torch.Tensor]]:
    """(launch, what it must compute) for each step, on 2 x 40 x 17 x 19."""
    N, C, H, W = 2, 40, 17, 19
    x = torch.randn(N, C, H, W, device=DEVICE).half().contiguous(memory_format=torch.channels_last)
    w = torch.randn(C, 1, 3, 3, device=DEVICE).half()
    expected = torch.nn.functional.conv2d(x.float(), w.float(), padding=1, groups=C)
    threads = {"1_naive": N * H * W * C, "2_vectors": N * H * W * C // 8}
    for step in ("1_naive", "2_vectors", "3_strip"):
        arguments = dict(x=x, w=w, y=torch.full_like(x, float("nan")), N=N, H=H, W=W, C=C)
        grid = (cdiv(threads[step], 256),) if step in threads else (cdiv(N * H * cdiv(W, 4), 256 // 4), cdiv(C, 32))
        shared = 0 if step in threads else 9 * 32 * 4
        yield (
            CudaLaunch(
                str(HERE / "depthwise.cu"), f"depthwise_{step}", ("4",), grid, 256, arguments, shared, bool(shared)
            ),
            expected,
        )


def gemm() -> Iterator[tuple[CudaLaunch, torch.Tensor]]:
    """(launch, what it must compute) for each step, 128 x 192 x 128."""
    M, N, K = 128, 192, 128
    a, w = torch.randn(M, K, device=DEVICE).half(), torch.randn(N, K, device=DEVICE).half()
    steps = {
        "1_naive": ((cdiv(M * N, 256),), 256, 0),
        "2_tiled": ((N // 16, M // 16), 256, 2 * 16 * 17 * 4),
        "3_registers": ((N // 64, M // 64), 256, 2 * 64 * 17 * 4),
        "4_tensor_cores": ((N // 64, M // 64), 128, 128 * 128),
    }
    for step, (grid, block, shared) in steps.items():
        y = torch.full((M, N), float("nan"), device=DEVICE).half()
        arguments = dict(a=a, w=w, y=y, M=M, N=N, K=K)
        launch = CudaLaunch(str(HERE / "gemm.cu"), f"gemm_{step}", ("0",), grid, block, arguments, shared, shared > 0)
        yield launch, a.float() @ w.float().t()


LADDERS = {"depthwise": depthwise, "gemm": gemm}


def check(launch: CudaLaunch, expected: torch.Tensor) -> float:
    """Runs a step; returns the largest error relative to the largest output. Halves keep 11 bits, so 2^-10 is right."""
    launch.run()
    y = launch.arguments["y"].float()
    return ((y - expected).abs().max() / expected.abs().max()).item()


def machine_code(launch: CudaLaunch) -> str:
    """Registers and memory instructions on sm_90, where cuda-core is installed."""
    from convatlas.codegen.nvrtc import compile_launches
    from convatlas.errors import BackendError

    try:
        [made] = compile_launches([launch], 90)
    except BackendError as error:
        return str(error)
    code = {
        name: n for name, n in made.opcodes.items() if name in ("LDG", "LDGSTS", "LDS", "LDSM", "FFMA", "HMMA", "STG")
    }
    return f"{made.registers} registers, {', '.join(f'{n} {name}' for name, n in sorted(code.items()))}"


def timed(launch: CudaLaunch) -> str:
    """Microseconds a launch on a GPU: the median of 20, by events."""
    times = []
    for _ in range(20):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        launch.run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1000)
    return f"{sorted(times)[10]:.1f} us, "


def main(names: list[str]) -> None:
    """Prints a line a step."""
    for name in names or LADDERS:
        for launch, expected in LADDERS[name]():
            error = check(launch, expected)
            time = timed(launch) if DEVICE == "cuda" else ""
            print(f"{launch.kernel:24} error {error:.1e}  {time}{machine_code(launch)}")


if __name__ == "__main__":
    main(sys.argv[1:])
