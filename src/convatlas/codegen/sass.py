"""The one reader of machine code: what cuobjdump and nvdisasm (Triton's wheel brings them) say of a cubin, a function at a time."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from convatlas.errors import BackendError

# Global loads and stores, and asynchronous copies; local memory too, which only spills and indexed arrays use.
ACCESSES = ("LDG", "STG", "LDL", "STL", "UTMA")
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)([^;]*);")
LABEL = re.compile(r"^(\.L\w+):$")
TARGET = re.compile(r"`\((\.L\w+)\)|\b0x([0-9a-f]+)\s*$")
FRAME = re.compile(r'"([^"]+)", line (\d+)')
BRANCHES = ("BRA", "BRX", "JMP")
# What a tensor core executes, by the first part of its SASS name: Ampere's mma, Hopper's warpgroup mma, Blackwell's tcgen05.
TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "UTCOMMA")


@dataclass(frozen=True)
class Code:
    """One function's machine code.

    Attributes:
        registers: a thread's, at most 255.
        stack: bytes of local memory a thread has.
        shared: bytes of static shared memory of a block.
        opcodes: SASS instructions by their name up to the first dot.
        accesses: those of ACCESSES by full name (LDG.E.128 moves 16 bytes a thread).
    """

    registers: int
    stack: int
    shared: int
    opcodes: dict[str, int]
    accesses: dict[str, int]


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        address: bytes from the function's start.
        predicate: under which a thread executes it, such as "@!P0"; "" for always.
        opcode: its full name, such as "HMMA.16816.F32".
        operands: as the disassembler writes them.
        target: address that a branch goes to; None for another instruction.
        lines: (file, line) of the source that it comes from, the innermost inlined function first; empty where nothing is known.
    """

    address: int
    predicate: str
    opcode: str
    operands: str
    target: int | None = None
    lines: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """The opcode up to its first dot."""
        return self.opcode.split(".")[0]

    def __str__(self) -> str:
        return f"{self.predicate:>5} {self.opcode} {self.operands}".rstrip()


def read(cubin: bytes) -> dict[str, Code]:
    """The functions of a cubin by their (mangled) names. Raises BackendError for one that the tools do not know."""
    text = _run("cuobjdump", "-res-usage", "--dump-sass", cubin=cubin)
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
    parts = {part.split("\n", 1)[0].strip(): part for part in text.split("Function : ")[1:]}
    found = {}
    for name, *numbers in usage:
        code = parse(parts[name])
        opcodes = Counter(one.name for one in code)
        accesses = Counter(one.opcode for one in code if one.opcode.startswith(ACCESSES))
        found[name] = Code(*map(int, numbers), dict(opcodes), dict(accesses))
    return found


def listing(cubin: bytes) -> dict[str, list[Instruction]]:
    """The instructions of each function of a cubin, with source lines where it was compiled with line information."""
    text = _run("nvdisasm", "--print-code", "--print-line-info-inline", cubin=cubin)
    parts = re.split(r"^\s*\.section\s+\.text\.([^,\s]+).*$", text, flags=re.MULTILINE)
    return {name: parse(part) for name, part in zip(parts[1::2], parts[2::2])}


def parse(text: str) -> list[Instruction]:
    """The instructions of one function, as either disassembler prints it."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for line in text.splitlines():
        if label := LABEL.match(line):
            waiting.append(label[1])
        elif (found := INSTRUCTION.match(line)) and waiting:
            labels.update(dict.fromkeys(waiting, int(found[1], 16)))
            waiting = []
    return list(_instructions(text, labels))


def _instructions(text: str, labels: dict[str, int]) -> Iterator[Instruction]:
    lines: tuple[tuple[str, int], ...] = ()
    fresh = False  # whether the last line said where the next instruction comes from
    for line in text.splitlines():
        if "//## File" in line:
            # A line a frame, the innermost first; each repeats its caller, which the next line begins with.
            file, number = FRAME.findall(line)[0]
            lines = (*(lines if fresh else ()), (file, int(number)))
            fresh = True
        elif found := INSTRUCTION.match(line):
            fresh = False
            address, predicate, opcode, operands = found.groups()
            target = None
            if opcode.split(".")[0] in BRANCHES and (to := TARGET.search(operands.strip())):
                target = labels.get(to[1]) if to[1] else int(to[2], 16)
            yield Instruction(
                int(address, 16), (predicate or "").strip(), opcode, operands.strip(), target, lines
            )  # fmt: skip


def _run(tool: str, *options: str, cubin: bytes) -> str:
    path = Path(find_spec("triton").submodule_search_locations[0]) / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(path), *options, file.name], capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).replace(file.name, "the cubin").split())
        raise BackendError(f"{tool} of Triton's wheel cannot read this machine code: {said[:200] or done.returncode}")
    return done.stdout
