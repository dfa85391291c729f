"""Writes the tables of docs/kernels.md: what the compilers made for sm_90 of every CUDA instantiation, and of every config of the
Triton kernels that load by TMA in float16, between its markers.

python docs/kernel_resources.py        (needs cuda-core and Triton's wheel, no GPU)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from convatlas.codegen.cross_compile import Compiled, compile_launch
from convatlas.codegen.inventory import inventory
from convatlas.kernels.common.launch import Launch

PAGE = Path(__file__).with_name("kernels.md")
ACCESS = re.compile(r"(LDG|STG|LDGSTS)\.E.*?\.128$")
TMA = "conv2d/triton_tma.py", "conv2d/triton_rows.py"
TMA_HEAD = """\
| kernel | pixels x filters x step | warps, stages | variant | registers | local memory | shared memory | HGMMA | UTMALDG |
|---|---|---|---|---|---|---|---|---|"""


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


def tma_launches() -> dict[tuple, Launch]:
    """The float16 launches of the TMA kernels that the networks make, one of each tile, by what the table shows of it."""
    found: dict[tuple, Launch] = {}
    for _, _, launch in inventory(90, ["float16"], every_code=True):
        if launch.kernel.__name__ not in ("conv2d_tma_kernel", "conv2d_rows_kernel", "stem_pack_kernel"):
            continue
        at = launch.flat
        pixels = at["TN"] * at["TH"] * at["TW"] if "TN" in at else 0
        marks = {
            "stays": at.get("RESIDENT", 0) > 0,
            "split": at.get("SPLIT", 1) > 1,
            "residual": launch.residual,
            "one row": "TN" in at and at["TN"] * at["TH"] == 1,
        }
        variant = ", ".join(name for name, there in marks.items() if there) or "-"
        step = at["BK"] if "BK" in at else at["WINDOW"]
        kernel = launch.kernel.__name__
        found.setdefault((kernel, pixels, at.get("BN", 0), step, launch.num_warps, launch.num_stages, variant), launch)
    return found


def tma_row(name: tuple, made: Compiled) -> str:
    """One tile of a TMA kernel: HGMMA multiplies, UTMALDG copies a box."""
    kernel, pixels, filters, step, warps, stages, variant = name
    tile = f"{pixels} x {filters} x {step}" if pixels else f"rows of {step}"
    copies = sum(count for access, count in made.accesses.items() if access.startswith("UTMALDG"))
    numbers = made.registers, made.stack, made.shared, made.opcodes.get("HGMMA", "-"), copies or "-"
    return f"| `{kernel}` | {tile} | {warps}, {stages} | {variant} | {' | '.join(map(str, numbers))} |"


def replaced(text: str, source: str, made: str) -> str:
    """`text` with `made` between the markers of one file."""
    begin, end = f"<!-- resources {source}:begin -->", f"<!-- resources {source}:end -->"
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n{made}\n{end}{after}"


def main() -> None:
    """Compiles both inventories and replaces what stands between the markers of each file."""
    command = [sys.executable, "-m", "convatlas.codegen.cuda_inventory", "90:float16,float32,tf32"]
    records = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    tables = {
        source: table([record for record in records if record["source"] == source])
        for source in sorted({record["source"] for record in records})
    }
    tma: dict[str, list[str]] = {source: [] for source in TMA}
    for name, launch in sorted(tma_launches().items(), key=lambda item: item[0]):
        tma[TMA["rows" in name[0] or "pack" in name[0]]].append(tma_row(name, compile_launch(launch, 90)))
    tables |= {source: "\n".join([TMA_HEAD, *rows]) for source, rows in tma.items()}
    text = PAGE.read_text()
    for source, made in tables.items():
        text = replaced(text, source, made)
    written = PAGE.with_suffix(".md.new")
    written.write_text(text)
    os.replace(written, PAGE)


if __name__ == "__main__":
    main()
