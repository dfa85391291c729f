"""What a kernel's instructions do: their mix, widths of accesses, and issue slots for each clock of the tensor cores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from convatlas.codegen.loops import Loop, main_loop
from convatlas.codegen.sass import TENSOR_CORE, Instruction
from convatlas.model.gpu import GPU
from convatlas.model.occupancy import WARP
from convatlas.model.time import fma_rate
from convatlas.model.work import Work

# Kinds of instructions by the beginning of their names; the first kind that fits counts. What none names is "address, integer".
# Source: NVIDIA, "CUDA Binary Utilities", instruction set reference.
KINDS: dict[str, tuple[str, ...]] = {
    "tensor": (*TENSOR_CORE, "IMMA", "DMMA", "QMMA", "OMMA", "IGMMA", "QGMMA", "UTCIMMA"),
    "sync": (
        "BAR", "DEPBAR", "LDGDEPBAR", "SYNCS", "WARPGROUP", "WARPSYNC", "MEMBAR", "FENCE", "ERRBAR", "ARRIVES", "ELECT", "UCGABAR",
        "CCTL", "UTCBAR", "UTCATOMSWS", "UTMACMDFLUSH", "UTMACCTL", "NANOSLEEP", "YIELD", "BSSY", "BSYNC", "VOTE", "ACQBULK",
    ),
    "control": ("BRA", "BRX", "JMP", "EXIT", "RET", "CALL", "NOP", "BREAK", "BMOV", "KILL"),
    "load, asynchronous copy": ("LDGSTS", "UTMALDG", "UBLKCP", "UTCCP"),
    "load, global": ("LDG", "LD."),
    "store, global": ("STG", "UTMASTG", "RED", "ATOMG", "UBLKRED"),
    "load, shared": ("LDSM", "LDS", "LDTM"),
    "store, shared": ("STSM", "STS", "ATOMS", "STTM", "STAS"),
    "spill": ("LDL", "STL"),
    "load, constant": ("LDC", "ULDC"),
    "floating point": (
        "FFMA", "HFMA2", "DFMA", "FADD", "FMUL", "HADD2", "HMUL2", "FMNMX", "HMNMX2", "FSEL", "FSETP", "FSET", "HSETP2", "MUFU",
    ),
    "conversion": ("F2F", "F2I", "I2F", "F2FP", "I2FP", "FRND", "I2I"),
}  # fmt: skip
ADDRESS = "address, integer"
MEMORY = ("load, asynchronous", "load, global", "load, shared", "store", "spill")
# What multiplies where no tensor core does.
VECTOR = ("FFMA", "HFMA2")
WIDTH = re.compile(r"\.(128|64)\b")
ONE_BYTE, TWO_BYTES = re.compile(r"\.[US]8\b"), re.compile(r"\.[US]16\b")
SHAPE = re.compile(r"^HGMMA\.64x(\d+)x(\d+)")
MMA = {"16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4)}


@dataclass(frozen=True)
class Access:
    """Accesses of memory of one width.

    Attributes:
        opcode: the full name.
        bytes: of a thread; None where a descriptor says it.
        count: instructions.
    """

    opcode: str
    bytes: int | None
    count: int


@dataclass(frozen=True)
class Mix:
    """What the instructions of a kernel, or of its main loop, do.

    Attributes:
        kinds: instructions by kind; the most frequent first.
        accesses: of memory, by width.
    """

    kinds: dict[str, int]
    accesses: tuple[Access, ...]

    @classmethod
    def of(cls, code: Sequence[Instruction]) -> Mix:
        kinds = Counter(kind(one) for one in code)
        memory = Counter(one.opcode for one in code if kind(one).startswith(MEMORY))
        accesses = (Access(opcode, width(opcode), n) for opcode, n in memory.items())
        return cls(dict(kinds.most_common()), tuple(sorted(accesses, key=lambda a: -a.count)))


@dataclass(frozen=True)
class Issue:
    """Issue slots against the pipe that multiplies.

    Attributes:
        pipe: "tensor" or "FMA".
        cycles: clocks of that pipe a round of the main loop, on the whole SM, for one block.
        always, most: issue slots of each scheduler for each such clock: of instructions that every round executes, and with all
            that lie behind a branch. A scheduler has one slot a clock: above 1 the pipe cannot be kept busy.
        assumed: what had to be assumed; "" for nothing.
    """

    pipe: str
    cycles: float
    always: float
    most: float
    assumed: str = ""


def kind(one: Instruction) -> str:
    """One of KINDS, or ADDRESS."""
    name = one.opcode
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), ADDRESS)


def width(opcode: str) -> int | None:
    """Bytes that a thread moves; None for a copy whose descriptor says it."""
    if opcode.startswith(("UTMA", "UBLK", "UTCCP", "LDTM", "STTM")):
        return None
    if opcode.startswith(("LDSM", "STSM")):  # 8 x 8 matrices of two bytes: a thread's part of each is 4 bytes
        return 4 * int(opcode.rsplit(".", 1)[-1]) if opcode[-1] in "24" else 4
    if found := WIDTH.search(opcode):
        return int(found[1]) // 8
    return 1 if ONE_BYTE.search(opcode) else 2 if TWO_BYTES.search(opcode) else 4


def multiplying(code: Sequence[Instruction]) -> list[bool]:
    """For each instruction, whether it does the kernel's products: on the tensor cores, or where it has none by FMA."""
    tensor = [kind(one) == "tensor" for one in code]
    return tensor if any(tensor) else [_multiplies(one) for one in code]


def _multiplies(one: Instruction) -> bool:
    """Whether it is a multiply-add; the compiler also sets registers by one of zeros."""
    return one.name in VECTOR and "RZ, RZ" not in one.operands


def main(code: Sequence[Instruction]) -> Loop | None:
    """The main loop: the innermost one with the most products."""
    return main_loop(code, multiplying(code))


def issue(code: Sequence[Instruction], loop: Loop, work: Work, gpu: GPU, mode: str) -> Issue | None:
    """Issue slots for each clock of the pipe that multiplies, in the main loop. None where nothing multiplies in it."""
    partitions, warps = gpu.architecture.partitions, work.threads / WARP
    products = [code[i] for i in loop.body if kind(code[i]) == "tensor"]
    assumed, pipe = "", "tensor"
    if products:
        macs = 0.0
        for one in products:
            if found := SHAPE.match(one.opcode):
                macs += 64 * int(found[1]) * int(found[2]) * warps / 4
            elif shape := MMA.get(one.opcode.split(".")[1] if "." in one.opcode else ""):
                macs += shape[0] * shape[1] * shape[2] * warps
            else:
                depth = 32 // work.size
                macs += min(work.tile.BM, 128) * work.tile.BN * depth
                assumed = (
                    f"{one.name} has its shape in a descriptor: reckoned as "
                    f"{min(work.tile.BM, 128)}x{work.tile.BN}x{depth} products"
                )
        rate = fma_rate(gpu, mode if mode != "float32" else "tf32")
        cycles = macs / rate
    else:
        pipe = "FMA"
        count = sum(_multiplies(code[i]) for i in loop.body)
        cycles = count * warps * WARP / fma_rate(gpu, "float32")
    if not cycles:
        return None
    slots = warps / partitions / cycles
    return Issue(pipe, cycles, len(loop.always) * slots, len(loop.body) * slots, assumed)
