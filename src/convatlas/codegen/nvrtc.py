"""CUDA C++ kernels compiled by NVRTC for a GPU that is not here, and their machine code read.

Needs cuda-core (pip install cuda-core nvidia-cuda-nvrtc) and the cuobjdump of Triton's wheel, no GPU and no driver. In a process
that has imported CuPy NVRTC was seen to fail, so this runs in processes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from convatlas.codegen import sass
from convatlas.codegen.cross_compile import Compiled
from convatlas.errors import BackendError
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.nvrtc import compiled


def compile_launches(launches: Sequence[CudaLaunch], arch: int) -> list[Compiled]:
    """Compiles the instantiations of launches of one file together and reads their machine code.

    Raises BackendError where cuda-core is missing or NVRTC refuses.
    """
    source = launches[0].source
    _, made, mangled = compiled(source, [launch.expression for launch in launches], arch)
    functions = sass.read(made.code)
    found = []
    for launch in launches:
        code = functions[mangled[launch.expression]]
        shared = code.shared + launch.shared
        sizes = code.registers, code.stack, shared, code.opcodes, code.accesses
        found.append(Compiled(launch.expression, source, arch, {}, *sizes))
    return found


def assemble(source: str, expression: str, arch: int, early: bool = False) -> tuple[str, bytes, str]:
    """(PTX, cubin with line information, mangled name) of one instantiation, with the wait of a dependent launch where `early`.

    Raises BackendError as compile_launches does.
    """
    program, made, mangled = compiled(source, [expression], arch, early, lineinfo=True)
    from cuda.bindings import nvrtc

    # cuda-core asks the driver whether it can load PTX, and there is none here: the compiler's own call does not.
    _, size = nvrtc.nvrtcGetPTXSize(program.handle)
    text = b" " * size
    (status,) = nvrtc.nvrtcGetPTX(program.handle, text)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC gave no PTX of {expression}: {status.name}")
    return text.rstrip(b"\0 ").decode(), made.code, mangled[expression]
