"""The one reader of machine code: what cuobjdump (Triton's wheel brings it) says of a cubin, a function at a time."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Global loads and stores, and asynchronous copies; local memory too, which only spills and indexed arrays use.
ACCESSES = ("LDG", "STG", "LDL", "STL", "UTMA")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]+)", re.MULTILINE)


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


def read(cubin: bytes) -> dict[str, Code]:
    """The functions of a cubin by their (mangled) names."""
    tool = Path(find_spec("triton").submodule_search_locations[0]) / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", "--dump-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
    parts = {part.split("\n", 1)[0].strip(): part for part in text.split("Function : ")[1:]}
    found = {}
    for name, *numbers in usage:
        names = INSTRUCTION.findall(parts[name])
        opcodes = Counter(name.split(".")[0] for name in names)
        accesses = Counter(name for name in names if name.startswith(ACCESSES))
        found[name] = Code(*map(int, numbers), dict(opcodes), dict(accesses))
    return found
