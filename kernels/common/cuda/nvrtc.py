"""NVRTC without CuPy and without a GPU: instantiations of a .cu file as a cubin.

Needs cuda-core (pip install cuda-core nvidia-cuda-nvrtc). In a process that has imported CuPy NVRTC was seen to fail.
"""

from __future__ import annotations

from typing import Any

from convatlas.errors import BackendError
from convatlas.kernels.common.cuda.gpu import EARLY, OPTIONS
from convatlas.kernels.common.cuda.source import expand


def compiled(
    source: str, expressions: list[str], arch: int, early: bool = False, **options: Any
) -> tuple[Any, Any, dict[str, str]]:
    """(NVRTC's program, what it made, the mangled name of each expression), with the wait of a dependent launch where `early`.

    Raises BackendError where cuda-core is missing, or NVRTC is.
    """
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise BackendError(
            f"cross-compilation needs cuda-core ({error}): pip install cuda-core nvidia-cuda-nvrtc"
        ) from None
    if early:
        options["define_macro"] = EARLY
    program = Program(expand(source), "c++", ProgramOptions(std=OPTIONS[0].split("=")[1], arch=f"sm_{arch}", **options))
    made = program.compile("cubin", name_expressions=expressions)
    return (
        program,
        made,
        {name: value if isinstance(value, str) else value.decode() for name, value in made.symbol_mapping.items()},
    )
