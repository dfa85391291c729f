"""Compiles a Triton launch for a GPU that is not here, and reads registers, spills and instructions from the cubin.

Needs Triton (its wheel brings ptxas and cuobjdump), no GPU and no driver. An interpreted kernel cannot be compiled, so this
runs in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.codegen import sass
from convatlas.errors import BackendError
from convatlas.kernels.common.interpreter import interpreting
from convatlas.kernels.common.launch import Launch

POINTERS = {
    "torch.float32": "*fp32",
    "torch.float16": "*fp16",
    "torch.bfloat16": "*bf16",
    "torch.int64": "*i64",
}


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


def specialize(launch: Launch) -> tuple[dict[str, Any], dict[tuple, Any], dict[tuple, list]]:
    """(signature, constants, attributes) as Triton's launcher would specialise the arguments.

    1 and None become constants; integers and pointers that 16 divides are marked as such. (torch's allocations are 256-byte
    aligned; a channel slice may be aligned to less, which only a run shows.) Constants and attributes go by place, within a
    tuple by place and index.
    """
    constants: dict[tuple, Any] = {}
    attributes: dict[tuple, list] = {}

    def typed(value: Any, at: tuple, constant: bool, fixed: bool) -> Any:
        """The type of an argument, or of a tuple's elements."""
        if isinstance(value, tuple):
            return type(value)(*(typed(v, (*at, i), constant, fixed) for i, v in enumerate(value)))
        if constant or value is None or (isinstance(value, int) and value == 1 and not fixed):
            constants[at] = value
            return "constexpr"
        if isinstance(value, Tensor):
            attributes[at] = [["tt.divisibility", 16]]
            return POINTERS[str(value.dtype)]
        if isinstance(value, TensorDescriptor):
            return f"tensordesc<{POINTERS[str(value.base.dtype)].removeprefix('*')}{list(value.block_shape)}>"
        if isinstance(value, float):
            return "fp32"
        if value % 16 == 0 and not fixed:
            attributes[at] = [["tt.divisibility", 16]]
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    signature = {
        name: typed(
            launch.constants[name] if name in launch.constants else launch.arguments[name],
            (place,), name in launch.constants, _is_kept(launch.kernel, place, name),
        )
        for place, name in enumerate(launch.kernel.arg_names)
    }  # fmt: skip
    return signature, constants, attributes


def _is_kept(kernel: Any, place: int, name: str) -> bool:
    """Whether the kernel asks that this argument stay one, whatever its value; an interpreted kernel says so in another place."""
    if hasattr(kernel, "params"):
        return kernel.params[place].do_not_specialize
    return name in (kernel.kwargs.get("do_not_specialize") or ())


def key(launch: Launch) -> tuple:
    """A key that is equal for two launches that run the same machine code."""
    signature, constants, attributes = specialize(launch)
    parts = (signature, constants, attributes, launch.options)
    return (launch.kernel.__name__, *(tuple(sorted((str(k), str(v)) for k, v in part.items())) for part in parts))


def assemble(launch: Launch, arch: int) -> Any:
    """Triton's compiled kernel for compute capability `arch` (80, 90, 100, ...): its `asm` has the text of every stage.

    Raises BackendError in a process that interprets kernels.
    """
    if interpreting():
        raise BackendError(
            "cross-compilation needs a process without TRITON_INTERPRET: interpreted kernels have no compiler"
        )
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = specialize(launch)
    return triton.compile(
        ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", arch, 32),
        options=launch.options,
    )


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
