"""Bank conflicts of shared memory, where a kernel's layout tells them. Shared memory has 32 banks of 4 bytes.

A warp's access of 16 bytes a thread goes by 8 threads at a time, one of 8 bytes by 16, one of 4 by 32; ldmatrix reads 8 rows of 16
bytes at a time. Of those that go together, so many words of one bank as differ take so many turns. Source: NVIDIA CUDA C++ Best
Practices Guide, "Shared Memory and Memory Banks"; PTX ISA, "ldmatrix".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from convatlas.kernels.common.cuda.launch import CudaLaunch

BANKS, WORD, CHUNK = 32, 4, 16
ALIAS = re.compile(r"^#(\w+) = #ttg\.(\w+_shared)<\{(.*)\}>", re.MULTILINE)
ALLOCATED = re.compile(r"%(\w+) = ttg\.local_alloc\b.*-> !ttg\.memdesc<([\dx]+)x(f16|bf16|f32|f64), #(\w+),")
SIZES = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}


@dataclass(frozen=True)
class Buffer:
    """An operand in shared memory.

    Attributes:
        name: the operand's.
        shape: stages first.
        layout: in words.
        reads: turns that a read by 8 rows of 16 bytes takes; 1 for no conflict; None where the layout does not tell.
        writes: turns that 8 neighbouring threads' writes of 16 bytes take; None where it does not tell.
        why: how that is known, or why it is not.
    """

    name: str
    shape: str
    layout: str
    reads: int | None
    writes: int | None
    why: str


def turns(addresses: Sequence[int], width: int) -> int:
    """Turns that the accesses of a warp's threads take at most, `width` bytes at each address; 1 for no conflict."""
    together = min(32, 128 // width)
    most = 1
    for first in range(0, len(addresses), together):
        banks: dict[int, set[int]] = {}
        for address in addresses[first : first + together]:
            for word in range(address // WORD, (address + width) // WORD):
                banks.setdefault(word % BANKS, set()).add(word)
        most = max(most, *(len(words) for words in banks.values()))
    return most


def swizzled(row: int, phase: int, phases: int, chunk: int) -> tuple[int, int]:
    """(turns of reads, of writes) where chunk c of row r lies at c ^ (r / phase % phases); row, chunk: their bytes."""
    chunks = max(row // chunk, 1)

    def at(r: int, byte: int) -> int:
        c = byte // chunk
        return r * row + (c ^ (r // phase % phases) % chunks) * chunk + byte % chunk

    reads = max(turns([at(r, byte) for r in range(8)], CHUNK) for byte in range(0, row, CHUNK))
    line = [at(i * CHUNK // row, i * CHUNK % row) for i in range(32)]
    return reads, turns(line, CHUNK)


def of_triton(ttgir: str) -> list[Buffer]:
    """The operands that a Triton kernel keeps in shared memory, by the layouts that its TTGIR names."""
    layouts = {name: (kind, fields) for name, kind, fields in ALIAS.findall(ttgir)}
    found: dict[str, Buffer] = {}
    for name, shape, element, alias in ALLOCATED.findall(ttgir):
        kind, fields = layouts.get(alias, ("", ""))
        sizes = [int(n) for n in shape.split("x")]
        size, said = SIZES[element], f"{shape} {element}"
        plain = re.sub(r"_\d+$", "", name)
        if kind == "nvmma_shared":
            width = int(re.search(r"swizzlingByteWidth = (\d+)", fields)[1])
            layout = f"swizzle of {width} bytes" if width else "no swizzle"
            why = "the tensor cores read it by the swizzle that they define, and "
            why += "the copy engine writes it" if "async_tma_copy" in ttgir else "8 threads write a line of 128 bytes"
            known = 1 if width else None
            found[plain] = Buffer(plain, said, layout, known, known, why if width else "the layout has no swizzle")
        elif kind == "swizzled_shared" and len(sizes) > 1:
            vec, phase, phases = (
                int(re.search(rf"\b{key} = (\d+)", fields)[1]) for key in ("vec", "perPhase", "maxPhase")
            )
            order = [int(n) for n in re.search(r"order = \[([\d, ]+)\]", fields)[1].split(",")]
            row = sizes[len(sizes) - len(order) + order[0]] * size
            layout = f"rows of {row} bytes, chunk of {vec * size} bytes c at c ^ (row / {phase} % {phases})"
            if row % CHUNK or vec * size < CHUNK:
                found[plain] = Buffer(
                    plain,
                    said,
                    layout,
                    None,
                    None,
                    "threads read single numbers, and which reads what is not in the layout",
                )
            else:
                reads, writes = swizzled(row, phase, phases, vec * size)
                found[plain] = Buffer(plain, said, layout, reads, writes, "reckoned from the layout")
    return list(found.values())


def of_cuda(launch: CudaLaunch) -> list[Buffer]:
    """The operands that a CUDA C++ kernel keeps in shared memory, where the layout is one that is known here."""
    if launch.kernel == "implicit_gemm":
        BM, BN, stages = launch.template[2], launch.template[3], launch.template[6]
        reads, writes = swizzled(128, 1, 8, CHUNK)
        layout = "rows of 128 bytes, chunk of 16 bytes c at c ^ (row % 8)"
        why = "reckoned from the layout that gemm/operands.cuh states"
        return [
            Buffer(name, f"{stages}x{rows} rows", layout, reads, writes, why) for name, rows in (("a", BM), ("b", BN))
        ]
    if launch.kernel in ("depthwise_tile", "pool_tile"):
        lanes = launch.arguments["lanes"]
        known, why = 1, "tile.cuh: 8 threads read or write one pixel's neighbouring vectors"
        if lanes % 8:
            known, why = None, f"threads that go together read several pixels, of {lanes} vectors of 16 bytes each"
        return [Buffer("tile", f"{launch.shared} bytes", "pixels of neighbouring vectors", known, known, why)]
    return []
