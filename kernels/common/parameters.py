"""What a compiled kernel takes, packed: the function, its grid and block, and every parameter's bytes, pointers named by tensor."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from convatlas.kernels.common.driver import MAP_BYTES, Unprepared
from convatlas.kernels.common.launch import Launch

FORMATS = {"i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
FORMATS |= {"fp32": "f", "fp64": "d"}


@dataclass(frozen=True)
class Loaded:
    """A kernel in a GPU's memory.

    Attributes:
        function: the driver's handle of it.
        block: threads of a block.
        shared: bytes of dynamic shared memory.
        signature: the type of each argument of a Triton kernel by name, as compiled; None for a CUDA C++ kernel.
        maps: what the compiler chose for each tensor descriptor among its arguments.
        dependent: whether it is set up while the kernel in front of it still runs, and waits for that one (Launch.dependent).
        owner: what must live as long as the function is used.
    """

    function: int
    block: int
    shared: int
    signature: dict[str, Any] | None = None
    maps: tuple[dict[str, Any], ...] = ()
    owner: Any = None
    dependent: bool = False


@dataclass(frozen=True)
class Map:
    """A tensor descriptor as a parameter."""

    meta: dict[str, Any]
    base: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# A parameter: its bytes, a tensor whose address it is, or a descriptor; the fields of a parameter struct are one.
Parameter = bytes | Tensor | Map


def loaded(launch: Any, compiled: Any) -> Loaded:
    """What launching `launch` on a GPU left behind: Triton's CompiledKernel, or gpu.py's Kernel. Raises Unprepared."""
    if not isinstance(launch, Launch):
        function = compiled.ready(launch.shared).kernel
        return Loaded(function.ptr, launch.block, launch.shared, owner=compiled, dependent=launch.early)
    *taken, dependent = launched_as(compiled)
    return Loaded(compiled.function, *taken, compiled, dependent)


def launched_as(compiled: Any) -> tuple[int, int, dict[str, Any], tuple[dict[str, Any], ...], bool]:
    """(block, shared, signature, maps, dependent) of Triton's CompiledKernel, as Loaded has them. Raises Unprepared."""
    meta = compiled.metadata
    warps, clusters, shared = compiled.packed_metadata[:3]
    unusual = ("launch_cooperative_grid", "global_scratch_size", "profile_scratch_size")
    if clusters != 1 or any(getattr(meta, name, 0) for name in unusual) or getattr(meta, "instrumentation_mode", ""):
        raise Unprepared(f"{meta.name} needs more than a plain launch")
    maps = tuple(getattr(meta, "tensordesc_meta", None) or ())
    return 32 * warps, shared, dict(compiled.src.signature), maps, bool(getattr(meta, "launch_pdl", False))


def parameters(launch: Any, kernel: Loaded) -> list[Parameter | list[Parameter]]:
    """The kernel's parameters in order; a CUDA C++ kernel's only one is the list of its struct's fields. Raises Unprepared."""
    if kernel.signature is None:
        return [list(launch.fields)]
    maps = iter(kernel.maps)
    found: list[Any] = []
    for name, kind in kernel.signature.items():
        value = launch.constants[name] if name in launch.constants else launch.arguments.get(name)
        found += _flat(value, kind, maps)
    # Triton gives every kernel two more pointers, to scratch memory that `loaded` has seen to be of no size.
    return [*found, bytes(8), bytes(8)]


def _flat(value: Any, kind: Any, maps: Iterator[dict[str, Any]]) -> Iterator[Parameter]:
    """What of an argument the kernel takes: constants are compiled in, tuples are taken element by element."""
    if isinstance(kind, (tuple, list)):
        for element, of in zip(value, kind):
            yield from _flat(element, of, maps)
    elif kind == "constexpr":
        return
    elif kind.startswith("tensordesc"):
        meta = next(maps, None)
        if meta is None or getattr(value, "padding", "zero") != "zero" or getattr(value, "round_f32_to_tf32", False):
            raise Unprepared(f"a tensor descriptor of type {kind}")
        yield Map(meta, value.base, tuple(value.shape), tuple(value.strides))
        yield from (struct.pack("<i", n) for n in value.shape)
        yield from (struct.pack("<q", n) for n in value.strides)
    elif kind.startswith("*"):
        yield value
    elif kind in FORMATS:
        yield struct.pack(f"<{FORMATS[kind]}", value)
    else:
        raise Unprepared(f"an argument of type {kind}")


def size(parameter: Any) -> int:
    """Bytes that a parameter takes."""
    if isinstance(parameter, list):
        return sum(map(size, parameter))
    return len(parameter) if isinstance(parameter, bytes) else MAP_BYTES if isinstance(parameter, Map) else 8
