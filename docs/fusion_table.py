"""Writes the table of docs/fusion.md: what blocks save of whole networks, in bytes and, by the time model, in time.

python docs/fusion_table.py            (no GPU: shapes alone are computed, no numbers; takes some minutes)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from convatlas import nets
from convatlas.errors import InputError
from convatlas.files import marked, write_text
from convatlas.kernels.common.proven import KERNELS, shipped
from convatlas.model.gpu import gpu
from convatlas.plan import blocks
from convatlas.plan.export import graph_of
from convatlas.plan.passes import fused
from convatlas.plan.siblings import seconds, siblings
from convatlas.plan.steps import OURS, Graph

PAGE = Path(__file__).with_name("fusion.md")
ON = "h100-sxm"
NETWORKS = (
    "resnet18", "resnet50", "resnet101", "vgg16", "googlenet", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2",
    "efficientnet_lite0",
)  # fmt: skip
BATCHES = (1, 32)
HEAD = """\
| network | batch | MB apart | `auto` | `predicted` | ms apart | `auto` | `predicted` | blocks that `predicted` joins |
|---|--:|--:|--:|--:|--:|--:|--:|---|"""


def graphs(name: str, batch: int) -> Iterator[Graph]:
    """The network's plan layer by layer, with the blocks that `auto` joins on an H100, and with those that `predicted` joins."""
    info = nets.info(name)
    with torch.device("meta"):
        net = nets.create(name).half().eval()
    x = torch.empty(batch, 3, info.size, info.size, dtype=torch.float16, device="meta")
    on = gpu(ON)
    graph = siblings(fused(graph_of(net.to("meta"), (x,))), on)
    held = KERNELS.keys() - shipped()[on.arch]["kernels"].keys()
    blocks.cuda_is_here = lambda: True  # as where CuPy is installed
    yield graph
    for fuse in ("auto", "predicted"):
        yield blocks.blocks(replace(graph), on, held, None, fuse)


def moved(graph: Graph) -> int:
    """Compulsory bytes of the steps that are ours, each alone."""
    return sum(
        s.call.spec.bytes(s.call.dtype, s.call.epilogue) for s in graph.steps if s.kind == OURS and s.op != "concat"
    )


def predicted(graph: Graph) -> float:
    """Seconds of the same, on the backend that an H100 chooses for each."""
    return sum(seconds(s.call, gpu(ON)) for s in graph.steps if s.kind == OURS and s.op != "concat")


def row(name: str, batch: int) -> str:
    """A network's line at a batch size."""
    found = list(graphs(name, batch))
    joined: dict[str, int] = {}
    for step in found[-1].steps:
        if step.op == "block":
            joined[step.call.spec.pattern] = joined.get(step.call.spec.pattern, 0) + 1
    megabytes = " | ".join(f"{1e-6 * moved(graph):.1f}" for graph in found)
    times = " | ".join(f"{1e3 * predicted(graph):.3f}" for graph in found)
    which = ", ".join(f"{count} {pattern}" for pattern, count in joined.items()) or "none"
    return f"| {name} | {batch} | {megabytes} | {times} | {which} |"


def main() -> None:
    """Writes the table between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    marked(page, "networks", "", PAGE)  # refused before the minutes that the rows take
    rows = [HEAD]
    for name in NETWORKS:
        for batch in BATCHES:
            rows.append(row(name, batch))
            print(rows[-1], flush=True)
    write_text(PAGE, marked(page, "networks", "\n".join(rows), PAGE))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
