"""Compiles a Triton launch for a GPU that is not here, and reads registers, spills and instructions from the cubin.

Needs Triton (its wheel brings ptxas and cuobjdump), no GPU and no driver. An interpreted kernel cannot be compiled, so this
runs in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convatlas.codegen import sass
from convatlas.kernels.common.compiling import assemble
from convatlas.kernels.common.launch import Launch


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one launch.

    Attributes:
        kernel: its name; of CUDA C++ the template's instantiation.
        source: its file, below kernels/.
        arch: compute capability, such as 90.
        constants: the tl.constexpr parameters and launch options; none of CUDA C++, which has them in its name.
        registers: registers of a thread, at most 255.
        stack: bytes of local memory a thread has: spills and indexed arrays. 0 is what we want.
        shared: bytes of shared memory a block asks for, static and dynamic.
        opcodes: SASS instructions by their name up to the first dot.
        accesses: global loads, stores and asynchronous copies by full name (LDG.E.128 moves 16 bytes a thread).
    """

    kernel: str
    source: str
    arch: int
    constants: dict[str, Any]
    registers: int
    stack: int
    shared: int
    opcodes: dict[str, int]
    accesses: dict[str, int]

    @property
    def spills(self) -> int:
        """Loads and stores of local memory in the code."""
        return self.opcodes.get("LDL", 0) + self.opcodes.get("STL", 0)

    @property
    def tensor_core(self) -> str | None:
        """The tensor-core instruction it uses, if any."""
        return next((name for name in sass.TENSOR_CORE if name in self.opcodes), None)


def compile_launch(launch: Launch, arch: int) -> Compiled:
    """Compiles for compute capability `arch`, and reads the machine code. Raises BackendError as assemble does."""
    compiled = assemble(launch, arch)
    code = next(iter(sass.read(compiled.asm["cubin"]).values()))
    return Compiled(
        kernel=launch.kernel.__name__,
        source=launch.kernel.__module__.removeprefix("convatlas.kernels.").replace(".", "/") + ".py",
        arch=arch,
        constants={name: str(v) for name, v in {**launch.flat, **launch.options}.items()},
        registers=code.registers,
        stack=code.stack,
        shared=compiled.metadata.shared,
        opcodes=code.opcodes,
        accesses=code.accesses,
    )
