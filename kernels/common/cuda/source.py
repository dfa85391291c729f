"""The .cu files as text: includes expanded, parameter structs read, arguments packed."""

from __future__ import annotations

import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

ROOT = Path(__file__).parents[2]
INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
# What a parameter struct may hold, each 8 bytes long, so that no padding can come between: the struct format of each type.
FORMATS = {"pointer": "Q", "i64": "q", "double": "d"}


@cache
def expand(source: str, host: bool = False) -> str:
    """The text of kernels/<source> with our own includes in their place, each once; #line keeps messages pointing at the files.

    One self-contained text can be the key of a compiler's cache. host.hpp is for a CPU, and left out unless `host`.
    """
    seen: set[Path] = set()

    def read(path: Path) -> str:
        if path in seen or (path.name == "host.hpp" and not host):
            return ""
        seen.add(path)
        lines = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = INCLUDE.match(line)
            if found:
                lines += [read((path.parent / found[1]).resolve()), f'#line {number + 1} "{path.name}"']
            elif line != "#pragma once":
                lines.append(line)
        return "\n".join([f'#line 1 "{path.name}"', *lines])

    return read((ROOT / source).resolve()) + "\n"


@cache
def parameters(source: str, kernel: str) -> tuple[str, dict[str, str]]:
    """(struct name, field name -> kind) of the one argument that `kernel` (a name without template arguments) takes.

    Of an array `w[3]` the fields are "w[0]", "w[1]" and "w[2]".
    """
    text = re.sub(r"//.*", "", expand(source))
    found = re.search(rf"\b{kernel}\(const (\w+) p\)", text)
    if not found:
        raise LookupError(f"{source} has no kernel {kernel}(const SomeParams p)")
    body = re.search(rf"struct {found[1]} {{(.*?)}};", text, re.DOTALL)[1]
    fields = {}
    for kind, names in re.findall(r"(const void|void|float|i64|double)\s+([^;]+);", body):
        for name in names.split(","):
            pointer = "*" in name or "void" in kind
            plain, _, count = name.strip(" *\n]").partition("[")
            each = [f"{plain}[{i}]" for i in range(int(count))] if count else [plain]
            fields |= dict.fromkeys(each, "pointer" if pointer else kind)
    return found[1], fields


@cache
def waits(source: str, kernel: str) -> bool:
    """Whether begin() stands in front of all that the kernel reads and writes, so that it can be launched before the one in front
    of it has ended. Before it there may be sizes and addresses, and nothing that looks like an access or a return.
    """
    found = re.search(rf"\b{kernel}\(const \w+ p\) {{(.*?)\bbegin\(\);", expand(source), re.DOTALL)
    return found is not None and not re.search(r"\[|\n}|\breturn\b|load|store|fetch|__sync", found[1])


def pack(source: str, kernel: str, arguments: dict[str, Any]) -> bytes:
    """The parameter struct's bytes: a tensor is its address, None is null."""
    name, fields = parameters(source, kernel)
    if fields.keys() != arguments.keys():
        raise TypeError(
            f"{name}: missing {fields.keys() - arguments.keys()}, unknown {arguments.keys() - fields.keys()}"
        )
    values = []
    for field, kind in fields.items():
        value = arguments[field]
        if kind == "pointer":
            value = value.data_ptr() if isinstance(value, Tensor) else 0
        values.append(value)
    return struct.pack("=" + "".join(FORMATS[kind] for kind in fields.values()), *values)
