"""Target: the GPU, or Triton's interpreter, that a launch config is chosen for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from convatlas.kernels.common.interpreter import interpreting
from convatlas.kernels.common.proven import held
from convatlas.model.gpu import GPU, gpu, representative
from convatlas.model.gpu import of_device as named


@dataclass(frozen=True)
class Target:
    """A GPU as far as a launch config cares, or the interpreter.

    Attributes:
        arch: compute capability as an int (80, 90, 100), 0 for the interpreter.
        sms: streaming multiprocessors.
        half_fma: dense fp16 / bf16 tensor-core multiply-adds per clock and SM.
        shared: bytes of shared memory that one block may use.
        held: kernels that it does not take unasked (proven.py); a GPU that is not here takes all.
        interpreted: the kernel runs in Triton's interpreter. Tests also run a GPU's tiles there, so arch may be that of a GPU.
    """

    arch: int
    sms: int
    half_fma: int
    shared: int
    interpreted: bool = False
    held: frozenset[str] = frozenset()

    @property
    def unbounded(self) -> bool:
        """Whether no GPU bounds the tiles.

        Then blocks are as large as Triton allows, since the interpreter's cost is one per operation.
        """
        return self.arch == 0

    def fma_rate(self, dtype: str, tf32: bool) -> int:
        """Multiply-adds per clock and SM: TF32 has half the fp16 rate, fp32 without tensor cores 128 (4 x 32 lanes)."""
        if dtype != "float32":
            return self.half_fma
        return self.half_fma // 2 if tf32 else 128


def of(gpu: GPU) -> Target:
    """The view of a GPU that launch configs are chosen for."""
    return Target(gpu.arch, gpu.sms, gpu.half_fma, gpu.architecture.block_shared)


# The numbers and their sources stand in model/gpus.json. An architecture by itself is one GPU of it.
TARGETS = {
    "interpreter": Target(0, 1, 1, 1 << 40, interpreted=True),
    "sm_80": of(gpu("a100-80")),
    "sm_90": of(gpu("h100-sxm")),
    "sm_100": of(gpu("b200")),
}


@cache
def of_device(index: int) -> Target:
    """The target that a GPU of this machine is; its tensor cores are those of the GPU of that name, or of its architecture."""
    properties = torch.cuda.get_device_properties(index)
    arch = 10 * properties.major + properties.minor
    like = named(properties.name) or representative(arch)
    shared = properties.shared_memory_per_block_optin
    return Target(arch, properties.multi_processor_count, like.half_fma, shared, held=held(arch, index))


def current(x: torch.Tensor, backend: str) -> Target:
    """The target that a backend's kernels on `x` run on: its GPU, unless Triton was imported in interpreter mode.

    On a CPU Triton's interpreter, and for the host build of the CUDA kernels an H100, whose very launches it runs.
    """
    if backend == "triton" and (interpreting() or not x.is_cuda):
        return TARGETS["interpreter"]
    return of_device(x.device.index) if x.is_cuda else TARGETS["sm_90"]
