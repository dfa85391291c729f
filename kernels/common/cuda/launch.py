"""CudaLaunch: one launch of a CUDA C++ kernel as a value, to be run on a GPU or a CPU, or compiled for a GPU that is not here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from convatlas.kernels.common.cuda.source import FORMATS, pack, parameters, waits
from convatlas.specs import Conv2dSpec
from convatlas.specs.activations import ACTIVATIONS, exact, parsed

TYPES = {"float32": "float", "float16": "half_t", "bfloat16": "bf16_t"}
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}  # as device.cuh numbers them


@dataclass(frozen=True)
class CudaLaunch:
    """A kernel, its grid and its arguments.

    Attributes:
        source: the file below kernels/, such as "pool/pool.cu".
        kernel: its name without template arguments.
        template: the template arguments as C++ writes them.
        grid: blocks along x, y, z.
        block: threads of a block.
        arguments: the fields of its parameter struct by name: tensors, integers, floats; None for an operand that is absent.
        shared: bytes of dynamic shared memory.
        barriers: whether its threads wait for one another, in a block or a warp; one that does not runs on a CPU without fibers.
        early: whether a GPU launches it by programmatic dependent launch, as compiled with the wait. A CPU runs it as any other.
        together: whether its blocks wait for one another (between.cuh); on a CPU they then run by turns. Any number will do.
    """

    source: str
    kernel: str
    template: tuple[str, ...]
    grid: tuple[int, ...]
    block: int
    arguments: dict[str, Any]
    shared: int = 0
    barriers: bool = False
    early: bool = False
    together: bool = False

    @property
    def expression(self) -> str:
        """The instantiation, as NVRTC's name expressions and g++ take it."""
        return f"{self.kernel}<{', '.join(self.template)}>"

    @property
    def dependent(self) -> CudaLaunch:
        """The same by programmatic dependent launch, as Launch.dependent; a kernel without a wait stays as it is."""
        return replace(self, early=True) if waits(self.source, self.kernel) else self

    @property
    def packed(self) -> bytes:
        """The parameter struct."""
        return pack(self.source, self.kernel, self.arguments)

    @property
    def fields(self) -> list[bytes | Tensor]:
        """The parameter struct's fields in order: a tensor where the field is its address, else its eight bytes."""
        kinds = parameters(self.source, self.kernel)[1]
        given = ((self.arguments[name], FORMATS[kind]) for name, kind in kinds.items())
        return [x if isinstance(x, Tensor) else struct.pack(f"={kind}", x or 0) for x, kind in given]

    def run(self) -> Any:
        """Launches on the current stream of the tensors' GPU, or runs the host build; an empty grid launches nothing.

        Returns the compiled kernel (gpu.Kernel) where a GPU has run it.
        """
        if prod(self.grid) == 0:
            return None
        device = next(a.device for a in self.arguments.values() if isinstance(a, Tensor))
        if device.type == "cuda":
            from convatlas.kernels.common.cuda.gpu import run
        else:
            from convatlas.kernels.common.cuda.host import run
        return run(self, device)


def with_activation(source: str, activation: str | None) -> tuple[str, int]:
    """(source, the field `activation`) of a kernel that applies it: its number, and the bits of leaky_relu's slope above it.

    Activations other than relu and relu6 are in a source of their own, <name>_activations.cu: their code is not in the others.
    """
    if exact(activation):
        return source, CODES[activation]
    name, slope = parsed(activation)
    (bits,) = struct.unpack("=i", struct.pack("=f", slope))
    return source.replace(".cu", "_activations.cu"), bits << 32 | CODES[name]


def reciprocal(d: int) -> int:
    """What device.cuh's quotient(n, by) divides by d with, for n and d below 2^31.

    With l = ceil(log2 d) and m = ceil(2^(32 + l) / d), floor(n m / 2^(32 + l)) = floor(n / d), and n m fits in 64 bits. Returned is
    64 m + l. Source: Granlund and Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994, theorem 4.2.
    """
    d = max(d, 1)
    shift = (d - 1).bit_length()
    return (-(-(1 << (32 + shift)) // d) << 6) | shift


def strides(prefix: str, x: Tensor | None, axes: str) -> dict[str, int]:
    """A 4-D NCHW tensor's element strides as kernel arguments, prefix_n, prefix_c, ... for the letters in `axes`."""
    values = (0, 0, 0, 0) if x is None else x.stride()
    named = dict(zip("nchw", values))
    return {f"{prefix}_{axis}": named[axis] for axis in axes}


def window(spec: Conv2dSpec) -> dict[str, int]:
    """A convolution's window, as the fields that the kernels' parameter structs have for it."""
    (top, _), (left, _) = spec.padding
    return dict(
        R=spec.R, S=spec.S, stride_h=spec.stride[0], stride_w=spec.stride[1],
        dilation_h=spec.dilation[0], dilation_w=spec.dilation[1], top=top, left=left,
    )  # fmt: skip


def dtype_name(x: Tensor) -> str:
    """A tensor's dtype by name."""
    return str(x.dtype).removeprefix("torch.")


def chunk(x: Tensor) -> int:
    """Elements in 16 bytes."""
    return 16 // x.element_size()


def vectors(*tensors: Tensor | None) -> bool:
    """Whether 16-byte accesses along dimension 1 of each (N, C, H, W) tensor are aligned: adjacent channels, whole vectors."""
    for x in tensors:
        if x is None:
            continue
        n = chunk(x)
        whole = all(x.shape[d] == 1 or x.stride(d) % n == 0 for d in (0, 2, 3))
        if x.stride(1) != 1 or x.shape[1] % n or not whole or not aligned(x):
            return False
    return True


def with_vectors(x: Tensor | None) -> Tensor | None:
    """The same where it is aligned, else a copy, which is."""
    return x if aligned(x) else x.clone()


def aligned(*tensors: Tensor | None) -> bool:
    """Whether each tensor starts at a multiple of 16 bytes; a meta tensor counts as if it were allocated."""
    return all(
        x is None or (x.storage_offset() * x.element_size() if x.is_meta else x.data_ptr()) % 16 == 0 for x in tensors
    )
