"""Writes the table of docs/engine.md: what a plan makes of our networks, torchvision's CNNs that classify, and ten of timm's.

python docs/plan_table.py            (no GPU: shapes alone are computed, no numbers; takes some minutes)
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
import torchvision
from torch import nn

import convatlas
from convatlas import nets
from convatlas.errors import InputError
from convatlas.files import marked, write_text
from convatlas.plan.layers import our_share

PAGE = Path(__file__).with_name("engine.md")
# Of timm's CNNs: a deep stem, squeeze and excitation, ghosts, parallel branches, inverted bottlenecks, TensorFlow's padding,
# streams of four resolutions, aggregated trees, selected kernels, mixed kernel sizes.
TIMM = (
    "resnet26d", "seresnet33ts", "ghostnet_100", "repvgg_a0", "mobilenetv4_conv_small", "tf_efficientnetv2_b0", "hrnet_w18_small",
    "dla34", "skresnet18", "mixnet_s",
)  # fmt: skip
TRANSFORMERS = ("vit_", "swin_", "maxvit_")
HEAD = """\
| network | ops | steps | FLOPs on ours | arena | without sharing | PyTorch | stays PyTorch's |
|---|--:|--:|--:|--:|--:|--:|---|"""


def torchvision_names() -> list[str]:
    """torchvision's models that classify and are no transformers."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if not name.startswith(TRANSFORMERS)]


def network(source: str, name: str) -> nn.Module:
    """A network without numbers, in eval mode; `source` is "ours", "torchvision" or "timm"."""
    if source == "timm":
        import timm

        with torch.device("meta"):
            return timm.create_model(name, pretrained=False).eval()
    more = {"init_weights": False} if source == "torchvision" and name in ("googlenet", "inception_v3") else {}
    # A RegNet computes its widths by tensors, which without numbers it cannot.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        net = nets.create(name) if source == "ours" else torchvision.models.get_model(name, weights=None, **more)
    return net.eval().to("meta")


def row(source: str, name: str) -> str:
    """A network's line of the table, for one image of its own size."""
    net = network(source, name)
    size = nets.info(name).size if source == "ours" else 299 if name == "inception_v3" else 224
    size = net.default_cfg["input_size"][-1] if source == "timm" else size
    plan = convatlas.compile(net, torch.empty(1, 3, size, size, device="meta"))
    program = plan.program()
    layers, arena, graph = plan.layers, program.arena, program.graph
    counts = Counter(layer.op for layer in layers if not layer.ours)
    mega = (f"{1e-6 * x:,.2f}" for x in (arena.bytes, arena.activations, graph.torch_peak))
    stays = ", ".join(f"{count} {op}" for op, count in sorted(counts.items())) or "nothing"
    shown = name if source == "ours" else f"{source} {name}"
    return f"| {shown} | {graph.torch_layers} | {len(layers)} | {100 * our_share(layers):.2f} % | {' | '.join(mega)} | {stays} |"


def cases() -> list[tuple[str, str]]:
    """(source, name) of every row."""
    sources = {"ours": nets.names(), "torchvision": torchvision_names(), "timm": TIMM}
    return [(source, name) for source, names in sources.items() for name in names]


def main() -> None:
    """Writes the table between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    marked(page, "coverage", "", PAGE)  # refused before the minutes that the rows take
    rows = [HEAD]
    for case in cases():
        rows.append(row(*case))
        print(rows[-1], flush=True)
    write_text(PAGE, marked(page, "coverage", "\n".join(rows), PAGE))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
