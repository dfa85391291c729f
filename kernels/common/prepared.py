"""Prepared: an op's launches with everything resolved but the addresses, to be replayed for other tensors of the same layout.

    Problem -> [Launch, ...] -> Prepared

A launcher is run once more on stand-ins: meta tensors with the operands' shapes, strides and alignment, each a storage of its own.
So a pointer that a launch takes names the operand that it points into, and how far; what a launcher allocates or copies on its way
is seen as well: a copy is made again on every replay, and a workspace is the thread's own of that stream (workspace.py). The packed
parameters of all launches are one block of bytes (a Frame), in which a replay writes addresses and nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextvars import ContextVar
from ctypes import c_uint64, c_void_p
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.kernels.common.driver import DEPENDENT, MAP_BYTES, LaunchConfig, Unprepared
from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.parameters import Loaded, Map, loaded, parameters, size
from convatlas.kernels.common.workspace import LINE, workspaces

ALIGNMENT = 16  # bytes; what launchers, Triton and TMA ask of an address
aten = torch.ops.aten


class Address(NamedTuple):
    """`offset` bytes into a tensor: the operands in the order of the call, then the output, then the temporaries."""

    at: int
    source: int
    offset: int


class Temporary(NamedTuple):
    """Memory that launches need besides their operands, and what is copied there first: (source, shape, strides, elements).

    With nothing copied it is a part of the workspace, which begins at byte `start`.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    copied: tuple[int, tuple[int, ...], tuple[int, ...], int] | None
    start: int = 0


@dataclass(frozen=True)
class Prepared:
    """Launches that only lack addresses.

    Attributes:
        driver: what launches them (driver.py).
        device: index of the GPU.
        template: the packed parameters of all launches; descriptors first.
        maps, words: where addresses go: descriptors by byte, pointers by 8-byte word.
        launches: of each launch the kernel, the grid, and the bytes at which its parameters begin.
        temporaries: parts of the workspace, and copies.
        scratch: bytes of the workspace.
        triton: whether Triton's launch hooks watch it.
        free: frames that no thread uses now. A replay takes one out and puts it back, so any number of threads may replay.
    """

    driver: Any
    device: int
    template: bytes
    maps: tuple[Address, ...]
    words: tuple[Address, ...]
    launches: tuple[tuple[Loaded, tuple[int, ...], tuple[int, ...]], ...]
    temporaries: tuple[Temporary, ...]
    scratch: int
    triton: bool
    free: list[Frame] = field(default_factory=list)

    def replay(self, operands: list[Tensor], addresses: list[int]) -> None:
        """Launches on the current stream; `addresses` are those of the operands and the output."""
        driver, device = self.driver, self.device
        if driver.current() != device:
            with driver.on(device):
                return self.replay(operands, addresses)
        stream = driver.stream(device)
        held = self._temporaries(operands, addresses, stream) if self.temporaries else ()
        try:
            frame = self.free.pop()
        except IndexError:
            frame = Frame(self)
        words = frame.words
        for at, source, offset in self.words:
            words[at] = addresses[source] + offset
        if self.maps:
            frame.move(self.maps, addresses, driver)
        if stream != frame.stream:
            frame.enter(stream)
        for config, function, given in frame.calls:
            driver.launch(config, function, given, device)
        self.free.append(frame)
        del held  # the allocator hands memory on in the order of the stream
        return None

    def _temporaries(self, operands: list[Tensor], addresses: list[int], stream: int) -> list[Tensor]:
        made, base, where = [], 0, operands[0].device
        if self.scratch:
            made.append(workspaces.take(self.scratch, where, stream, self.driver.capturing()))
            base = made[0].data_ptr()
        known = [*operands, None]  # nothing is copied from the output or a workspace
        for shape, strides, dtype, copied, begin in self.temporaries:
            memory = None
            if copied is not None:
                source, sizes, steps, start = copied
                x = known[source]
                memory = torch.empty_strided(shape, strides, dtype=dtype, device=where)
                memory.copy_(x.as_strided(sizes, steps, x.storage_offset() + start))
                made.append(memory)
            known.append(memory)
            addresses.append(base + begin if memory is None else memory.data_ptr())
        return made


class Frame:
    """One copy of the parameters of a Prepared's launches, at its own address, and the calls that launch them."""

    __slots__ = ("addresses", "base", "calls", "configs", "kept", "stream", "words")

    def __init__(self, of: Prepared) -> None:
        memory = ctypes.create_string_buffer(len(of.template) + MAP_BYTES)
        base = -(-ctypes.addressof(memory) // MAP_BYTES) * MAP_BYTES
        ctypes.memmove(base, of.template, len(of.template))
        self.base, self.stream, self.addresses = base, 0, [0] * len(of.maps)
        self.words = (c_uint64 * (len(of.template) // 8)).from_address(base)
        self.configs, self.calls, self.kept = [], [], [memory]
        for kernel, grid, starts in of.launches:
            config = LaunchConfig(*grid, kernel.block, 1, 1, kernel.shared)
            if kernel.dependent:
                config.attributes, config.count = ctypes.addressof(DEPENDENT), 1
            given = (c_void_p * len(starts))(*(base + start for start in starts))
            self.kept.append(given)
            self.configs.append(config)
            self.calls.append((ctypes.addressof(config), kernel.function, ctypes.addressof(given)))

    def enter(self, stream: int) -> None:
        """Launches on `stream` from now on."""
        for config in self.configs:
            config.stream = stream
        self.stream = stream

    def move(self, maps: tuple[Address, ...], addresses: list[int], driver: Any) -> None:
        """Lets descriptors describe the memory at these addresses, those that describe other memory."""
        for i, (at, source, offset) in enumerate(maps):
            address = addresses[source] + offset
            if self.addresses[i] != address:
                driver.move(self.base + at, address)
                self.addresses[i] = address


class _Recorder(TorchDispatchMode):
    """Sees what a launcher allocates and copies while it works on stand-ins."""

    def __init__(self, stand_ins: list[Tensor]) -> None:
        super().__init__()
        self.sources = {x.untyped_storage()._cdata: (i, x) for i, x in enumerate(stand_ins)}
        self.temporaries: list[Temporary] = []
        self.written = set(range(len(stand_ins) - 1))  # what holds numbers before the launches: not the output
        self.scratch = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func._schema.is_mutable:
            raise Unprepared(f"its launcher writes by {func}")
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or result.untyped_storage()._cdata in self.sources:
            return result  # a view
        copied, start, place = None, 0, len(self.sources)
        if func in (aten.clone.default, aten.contiguous.default):
            source, offset = self.find(args[0])
            if source not in self.written:
                raise Unprepared("a copy of what is not yet computed")
            self.written.add(place)
            copied = source, tuple(args[0].shape), args[0].stride(), offset // args[0].element_size()
        elif func not in (aten.empty.memory_format, aten.empty_strided.default):
            raise Unprepared(f"its launcher computes {func}")
        else:
            start, self.scratch = self.scratch, self.scratch + cdiv(result.untyped_storage().nbytes(), LINE) * LINE
        self.sources[result.untyped_storage()._cdata] = place, result
        self.temporaries.append(Temporary(tuple(result.shape), result.stride(), result.dtype, copied, start))
        return result

    def find(self, x: Tensor) -> tuple[int, int]:
        """(source, bytes): which tensor x is a view of, and how far into it x begins. Raises Unprepared for another's memory."""
        source, whole = self.sources.get(x.untyped_storage()._cdata, (-1, x))
        if source < 0 or x.dtype != whole.dtype:
            raise Unprepared("memory that is no operand's")
        return source, (x.storage_offset() - whole.storage_offset()) * x.element_size()


def _stand_in(x: Tensor) -> Tensor:
    """A meta tensor of x's shape, strides and alignment."""
    start = x.data_ptr() % ALIGNMENT
    if start % x.element_size():
        raise Unprepared("elements that lie across their own size")
    start //= x.element_size()
    end = start + 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride()))
    return torch.empty(end, dtype=x.dtype, device="meta").as_strided(x.shape, x.stride(), start)


def _alike(a: Any, b: Any) -> bool:
    """Whether two launches, or their parts, differ in tensors' memory only."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_alike, a, b))
    if hasattr(a, "__dict__") and not callable(a):
        return type(a) is type(b) and _alike(vars(a), vars(b))
    return type(a) is type(b) and (a is b or a == b)


def prepare(
    launcher: Callable[[dict[str, Tensor], Tensor], list[Any]],
    operands: dict[str, Tensor],
    order: list[Tensor],
    out: Tensor,
    launches: list[Any],
    compiled: list[Any],
    driver: Any,
) -> Prepared:
    """Prepares launches that have run.

    Args:
        launcher: lists the launches of operands by name and an output.
        operands, out: what the launches ran on.
        order: the operands in the order in which a replay gets them.
        launches, compiled: what the launcher listed, and what each launch compiled.

    Raises Unprepared where a replay could differ from what ran.
    """
    if not out.numel() or not launches or any(prod(launch.grid) == 0 for launch in launches):
        raise Unprepared("nothing to launch")
    stand_ins = [_stand_in(x) for x in (*order, out)]
    by_name = {name: stand_ins[_index(order, x)] for name, x in operands.items()}
    recorder = _Recorder(stand_ins)
    with recorder:
        listed = launcher(by_name, stand_ins[-1])
    if len(listed) != len(launches) or not all(map(_alike, listed, launches)):
        raise Unprepared("its launches depend on more than shapes, strides and alignment")
    device, temporaries = out.get_device(), tuple(recorder.temporaries)
    packed = _packed(listed, _loaded(launches, compiled, driver), driver, recorder.find, lambda base: out.data_ptr())
    return Prepared(driver, device, *packed[:4], temporaries, recorder.scratch, packed[4])


def _loaded(launches: list[Any], compiled: list[Any], driver: Any) -> list[Loaded]:
    load = getattr(driver, "loaded", loaded)
    return [one if isinstance(one, Loaded) else load(launch, one) for launch, one in zip(launches, compiled)]


def _packed(
    launches: list[Any],
    kernels: list[Loaded],
    driver: Any,
    find: Callable[[Tensor], tuple[int, int]],
    somewhere: Callable[[Tensor], int],
) -> tuple[bytes, tuple[Address, ...], tuple[Address, ...], tuple, bool]:
    """(template, maps, words, launches, triton) of a Prepared.

    `find` names a tensor's source, and `somewhere` an address for the time being that a descriptor of it may have.
    """
    given = [parameters(launch, kernel) for launch, kernel in zip(launches, kernels)]
    for kernel, found in zip(kernels, given):
        driver.require_layout(kernel.function, [size(parameter) for parameter in found])
    maps, words, template = [], [], bytearray()
    starts: dict[tuple[int, int], int] = {}
    for i, found in enumerate(given):  # descriptors first: they lie at multiples of their size
        for j, parameter in enumerate(found):
            if isinstance(parameter, Map):
                starts[i, j] = len(template)
                maps.append(Address(len(template), *find(parameter.base)))
                address = somewhere(parameter.base)
                template += driver.tensor_map(parameter.meta, parameter.shape, parameter.strides, address)
    for i, found in enumerate(given):
        for j, parameter in enumerate(found):
            starts.setdefault((i, j), len(template))
            for value in parameter if isinstance(parameter, list) else [parameter]:
                if isinstance(value, Tensor):
                    words.append(Address(len(template) // 8, *find(value)))
                if not isinstance(value, Map):
                    template += bytes(8) if isinstance(value, Tensor) else value.ljust(8, b"\0")
    ready = tuple(
        (kernel, (*launch.grid, *(1,) * (3 - len(launch.grid))), tuple(starts[i, j] for j in range(len(given[i]))))
        for i, (kernel, launch) in enumerate(zip(kernels, launches))
    )
    triton = any(kernel.signature is not None for kernel in kernels)
    return bytes(template), tuple(maps), tuple(words), ready, triton


class Fixed:
    """Launches of tensors that stay where they are, as a plan's do: prepared once, with every address in its place.

    One thread at a time runs it. Raises Unprepared where a launch needs more than a plain one.
    """

    def __init__(self, launches: list[Any], compiled: list[Any], driver: Any, device: int) -> None:
        if any(prod(launch.grid) == 0 for launch in launches):
            raise Unprepared("nothing to launch")
        addresses: list[int] = []

        def find(x: Tensor) -> tuple[int, int]:
            addresses.append(x.data_ptr())
            return len(addresses) - 1, 0

        packed = _packed(launches, _loaded(launches, compiled, driver), driver, find, Tensor.data_ptr)
        prepared = Prepared(driver, device, *packed[:4], (), 0, packed[4])
        self.driver, self.device, self.triton, self.launches = driver, device, packed[4], launches
        self.frame = Frame(prepared)
        for at, source, _ in prepared.words:
            self.frame.words[at] = addresses[source]
        self.frame.move(prepared.maps, addresses, driver)

    def run(self) -> None:
        """Launches on the current stream of the device, which is the current one."""
        driver, device, frame = self.driver, self.device, self.frame
        stream = driver.stream(device)
        if stream != frame.stream:
            frame.enter(stream)
        for config, function, given in frame.calls:
            driver.launch(config, function, given, device)


def _index(order: list[Tensor], x: Tensor) -> int:
    for i, y in enumerate(order):
        if x is y:
            return i
    raise Unprepared("an operand that is not the caller's own")


class Request:
    """A caller's wish that what is about to run be prepared: for operands in this order, and for this `out`, or a fresh output."""

    def __init__(self, operands: list[Tensor], out: Tensor | None, driver: Any) -> None:
        self.operands, self.out, self.driver = operands, out, driver
        self.prepared: Prepared | None = None
        self.result: Tensor | None = None
        self.reason = "another backend than ours"

    def offer(
        self, launcher: Any, operands: dict[str, Tensor], out: Tensor, launches: list[Any], compiled: list[Any]
    ) -> None:
        """Prepares what has just run, or says in `reason` why not."""
        try:
            if (self.out is not None) is not (self.out is out):
                raise Unprepared("an out of another view")
            self.prepared = prepare(launcher, operands, self.operands, out, launches, compiled, self.driver)
        except Unprepared as reason:
            self.reason = str(reason)


requested: ContextVar[Request | None] = ContextVar("convatlas_prepare", default=None)
