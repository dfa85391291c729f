"""Every instantiation of the CUDA C++ kernels that the networks need, compiled by NVRTC for a GPU that is not here.

`python -m convatlas.codegen.cuda_inventory 90` compiles them, on every core, and prints one JSON list. It needs cuda-core
(pip install cuda-core nvidia-cuda-nvrtc) and the cuobjdump of Triton's wheel, no GPU and no driver. In a process that has
imported CuPy NVRTC was seen to fail, so this runs in processes of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from os import cpu_count
from typing import Any

from convatlas import nets
from convatlas.call import Call
from convatlas.codegen import sass
from convatlas.codegen.inventory import MODES, extra_calls, launches_of, network_calls
from convatlas.errors import BackendError
from convatlas.kernels.common.cuda.gpu import OPTIONS
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.source import expand
from convatlas.specs import Conv2dSpec, Epilogue, LinearSpec, Pool2dSpec


def written_out() -> list[Call]:
    """Calls for instantiations that no network here needs: 7x7 depthwise, linear layers of 2 to 8 rows, some pools."""
    x = (8, 64, 28, 28)
    depthwise = [Conv2dSpec.of(x, (64, 1, 7, 7), stride, 3, 1, 64) for stride in (1, 2)]
    depthwise.append(Conv2dSpec.of(x, (64, 1, 3, 3), 1, 2, 2, 64))
    linear = LinearSpec.of((8, 2048), (1000, 2048))
    pool = [Pool2dSpec.of("avg", x, 3, 1, 1), Pool2dSpec.of("max", x, 5, 1, 2)]
    return [
        *(Call("conv2d", spec, Epilogue(True, "relu6")) for spec in depthwise),
        Call("linear", linear, Epilogue(True)),
        *(Call(f"{spec.kind}_pool2d", spec) for spec in pool),
    ]


def inventory(
    arch: int, modes: Iterable[str] = MODES, calls: Iterable[Call] | None = None
) -> dict[tuple[str, str], CudaLaunch]:
    """(source, expression) -> a launch, for all that `calls`, by default the networks', and the extra calls launch on `arch`.

    The extra calls are taken in both memory formats, so that the kernels for layouts without vectors are among them.
    """
    found: dict[tuple[str, str], CudaLaunch] = {}
    extra = [*extra_calls(), *written_out()]
    cases = [(call, False) for call in (network_calls(nets.names()) if calls is None else calls)]
    cases += [(call, contiguous) for call in extra for contiguous in (False, True)]
    for mode in modes:
        for call, contiguous in cases:
            for launch in launches_of(call, mode, arch, "cuda", contiguous):
                found.setdefault((launch.source, launch.expression), launch)
    return found


def compile_expressions(source: str, expressions: list[str], arch: int) -> list[dict[str, Any]]:
    """Compiles instantiations of one file together and reads their machine code.

    A record has source, expression, arch and the fields of sass.Code. Raises BackendError where cuda-core is missing or NVRTC
    refuses.
    """
    _, made, mangled = _compiled(source, expressions, arch)
    functions = sass.read(made.code)
    return [
        {"source": source, "expression": expression, "arch": arch, **asdict(functions[mangled[expression]])}
        for expression in expressions
    ]


def _compiled(source: str, expressions: list[str], arch: int, **options: Any) -> tuple[Any, Any, dict[str, str]]:
    """(NVRTC's program, what it made, the mangled name of each expression)."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise BackendError(
            f"cross-compilation needs cuda-core ({error}): pip install cuda-core nvidia-cuda-nvrtc"
        ) from None
    program = Program(expand(source), "c++", ProgramOptions(std=OPTIONS[0].split("=")[1], arch=f"sm_{arch}", **options))
    made = program.compile("cubin", name_expressions=expressions)
    return (
        program,
        made,
        {name: value if isinstance(value, str) else value.decode() for name, value in made.symbol_mapping.items()},
    )


def assemble(source: str, expression: str, arch: int) -> tuple[str, bytes, str]:
    """(PTX, cubin with line information, mangled name) of one instantiation. Raises BackendError as compile_expressions does."""
    program, made, mangled = _compiled(source, [expression], arch, lineinfo=True)
    from cuda.bindings import nvrtc

    # cuda-core asks the driver whether it can load PTX, and there is none here: the compiler's own call does not.
    _, size = nvrtc.nvrtcGetPTXSize(program.handle)
    text = b" " * size
    (status,) = nvrtc.nvrtcGetPTX(program.handle, text)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC gave no PTX of {expression}: {status.name}")
    return text.rstrip(b"\0 ").decode(), made.code, mangled[expression]


def compile_inventory(targets: dict[int, Iterable[str]]) -> list[dict[str, Any]]:
    """Compiles the inventory of each arch in its modes, on one process a core; a record of each instantiation and arch.

    To those of compile_expressions it adds shared: the bytes of dynamic shared memory that a launch asks for.
    """
    calls = list(network_calls(nets.names()))
    found: dict[tuple[str, int], list[str]] = {}
    shared: dict[tuple[str, str, int], int] = {}
    for arch, modes in targets.items():
        for (source, expression), launch in inventory(arch, modes, calls).items():
            found.setdefault((source, arch), []).append(expression)
            shared[source, expression, arch] = launch.shared
    # Small batches, the slowest file first, so that the cores finish together; a batch shares the parsing of its file.
    tasks = [
        (source, names[i : i + 4], arch)
        for (source, arch), names in sorted(found.items(), key=lambda item: "gemm" not in item[0][0])
        for i in range(0, len(names), 4)
    ]
    with ProcessPoolExecutor(cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        records = [record for records in pool.map(_task, tasks) for record in records]
    return [{**r, "shared": shared[r["source"], r["expression"], r["arch"]]} for r in records]


def _task(task: tuple[str, list[str], int]) -> list[dict[str, Any]]:
    return compile_expressions(*task)


def main(arguments: list[str]) -> None:
    """Targets such as 90 (every mode) or 90:float16,tf32."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m convatlas.codegen.cuda_inventory", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="ARCH[:MODE,...]")
    targets = {}
    for target in parser.parse_args(arguments).targets:
        arch, _, modes = target.partition(":")
        targets[int(arch)] = modes.split(",") if modes else list(MODES)
    json.dump(compile_inventory(targets), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
