"""Writes the tables of docs/kernels.md: what the compiler made of every CUDA instantiation for sm_90, between its markers.

python docs/kernel_resources.py        (needs cuda-core and Triton's wheel, no GPU)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("kernels.md")
ACCESS = re.compile(r"(LDG|STG|LDGSTS)\.E.*?\.128$")


def row(record: dict) -> str:
    """One instantiation: registers, local memory, tensor-core instructions, 16-byte accesses."""
    wide: dict[str, int] = {}
    for name, count in record["accesses"].items():
        if found := ACCESS.match(name):
            wide[found[1]] = wide.get(found[1], 0) + count
    accesses = ", ".join(f"{count} {name}" for name, count in sorted(wide.items())) or "-"
    tensor = record["opcodes"].get("HMMA", "-")
    return f"| `{record['expression']}` | {record['registers']} | {record['stack']} | {tensor} | {accesses} |"


def table(records: list[dict]) -> str:
    """The float16, float32 and TF32 instantiations of one file."""
    head = "| instantiation | registers | local memory | HMMA | 16-byte accesses |\n|---|---|---|---|---|"
    return "\n".join([head, *map(row, sorted(records, key=lambda r: r["expression"]))])


def main() -> None:
    """Compiles the inventory and replaces what stands between the markers of each file."""
    command = [sys.executable, "-m", "convatlas.hardware.cuda_inventory", "90:float16,float32,tf32"]
    records = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    text = PAGE.read_text()
    for source in sorted({record["source"] for record in records}):
        begin, end = f"<!-- resources {source}:begin -->", f"<!-- resources {source}:end -->"
        made = table([record for record in records if record["source"] == source])
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{made}\n{end}{after}"
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
