"""convatlas nets: all networks, a row each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output
from convatlas.cli.columns import CSV_HELP, JSON_HELP, Column, not_shown, one_format, print_csv, show
from convatlas.study.numbers import percent, short

if TYPE_CHECKING:
    from convatlas.nets import Net
    from convatlas.study.summary import Summary

NOTE = (
    "one image of the network's own size, at inference, float16; layers: convolutions and linear layers on the longest path; "
    "1 MAC = 2 FLOPs, FLOPs with those of pooling and normalisation; activations: the image and every op's output; "
    "1x1 to other: percent of the MACs, 3x3 dense or grouped, fc linear layers. `convatlas summary NET` says what is counted."
)

HEADERS = {"depthwise": "depth-\nwise"}


def command(
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help=CSV_HELP)] = False,
) -> None:
    """List all networks: year, layers, parameters, MACs, FLOPs, activations, where the work is, paper."""
    one_format(json, as_csv)
    from convatlas.nets.registry import NETS
    from convatlas.study import stored

    summaries = stored.load()
    found = [(net, summaries[stored.Key(net.name)]) for net in NETS.values()]
    rows = [as_dict(net, summary) for net, summary in found]
    if json:
        output.print_json({"nets": rows, "counted": NOTE})
    elif as_csv:
        print_csv(rows)
    else:
        show_text(found)


def as_dict(net: Net, summary: Summary) -> dict[str, Any]:
    """One flat row of exact numbers."""
    totals = summary.totals()
    return {
        "net": net.name,
        "year": net.year,
        "size": net.size,
        "classes": net.classes,
        **{name: totals[name] for name in ("weighted_layers", "parameters", "macs", "flops")},
        **{name: totals[name] for name in ("activation_bytes", "peak_activation_bytes", "bytes", "intensity")},
        **{f"share_{kind}": share for kind, share in totals["share_of_macs"].items()},
        "paper": net.paper,
    }


def show_text(found: list[tuple[Net, Summary]]) -> None:
    """A row a network."""
    from convatlas.study.summary import KINDS

    nets, summaries = zip(*found)
    shares = [Column(HEADERS.get(kind, kind), [percent(s.share(kind)) for s in summaries], 3) for kind in KINDS]
    columns = [
        Column("network", [net.name for net in nets], text=True),
        Column("year", [str(net.year) for net in nets], 5),
        Column("pixels", [str(net.size) for net in nets], 10),
        Column("layers", [str(s.depth) for s in summaries], 2),
        Column("params", [short(s.parameters) for s in summaries]),
        Column("MACs", [short(s.macs) for s in summaries]),
        Column("FLOPs", [short(s.flops) for s in summaries], 7),
        Column("activations\nbytes", [short(s.activation_bytes) for s in summaries], 4),
        *shares,
        Column("bytes", [short(s.bytes) for s in summaries], 8),
        Column("FLOPs/\nbyte", [output.number(s.intensity) for s in summaries], 9),
        Column("paper", [net.paper for net in nets], 11, text=True),
    ]
    console = output.console()
    dropped = show(console, columns)
    console.print(output.plain(f"\n{NOTE}"))
    if dropped:
        console.print(output.plain("\n" + not_shown(dropped)))
