"""What the compilers need to know of a launch, and their work without running it: for the GPU here, or for one that is not here.

Needs no GPU and no driver. An interpreted kernel cannot be compiled, so `assemble` wants a process without TRITON_INTERPRET.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.errors import BackendError
from convatlas.kernels.common.cuda.launch import aligned
from convatlas.kernels.common.interpreter import interpreting
from convatlas.kernels.common.launch import Launch

POINTERS = {
    "torch.float32": "*fp32",
    "torch.float16": "*fp16",
    "torch.bfloat16": "*bf16",
    "torch.int64": "*i64",
    "torch.uint8": "*u8",
}


def specialize(launch: Launch) -> tuple[dict[str, Any], dict[tuple, Any], dict[tuple, list]]:
    """(signature, constants, attributes) as Triton's launcher would specialise the arguments.

    1 and None become constants; integers and pointers that 16 divides are marked as such, where a tensor that is not here (meta)
    counts as if it were allocated. Constants and attributes go by place, within a tuple by place and index.
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
            if aligned(value):
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
