"""What docs/model.md shows of the time model's errors: tables between its markers, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convatlas.files import marked, write_text
from convatlas.model.gpu import GPU
from convatlas.study.evaluation.fitted import FITTED_ON, Summed, Timed, by_kind, network_sums
from convatlas.study.lecture.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Drawing,
    new_panels,
    save,
    short_ticks,
)

MARKERS = "errors", "judged"
PICTURE = "model/predicted"
COLOURS = {"1x1": BLUE, "3x3 dense": ORANGE, "depthwise": RED, "grouped": GREEN}


def tables(layers: Sequence[Timed], gpu: GPU) -> str:
    """Markdown: errors by backend and kind, all together, and the sums of networks."""
    held, fitted = [x for x in layers if x.held_out], [x for x in layers if not x.held_out]
    lines = [
        "| backend | kind | held out | median | nine in ten | bias | fitted on | median | nine in ten |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    judged, seen = by_kind(held, gpu), by_kind(fitted, gpu)
    for key in sorted({*judged, *seen}):
        lines.append(f"| {key[0]} | {key[1]} {_cells(judged.get(key), True)} {_cells(seen.get(key), False)} |")
    groups = {
        "all": layers,
        "batch 1": [x for x in layers if x.batch == 1],
        "batch 32": [x for x in layers if x.batch == 32],
        "`auto`": [x for x in layers if x.auto],
    }
    for name, part in groups.items():
        out, own = ([x.error(gpu) for x in part if x.held_out == flag] for flag in (True, False))
        lines.append(f"| **{name}** | {_cells(Summed.of(out), True)} {_cells(Summed.of(own), False)} |")
    lines += ["", "| network | batch | kernels | measured us | predicted us | off |", "|---|--:|---|--:|--:|--:|"]
    for (net, batch, way), (measured, predicted) in network_sums(layers, gpu).items():
        name = f"{net} (fitted on)" if net in FITTED_ON else net
        times = f"{measured * 1e6:,.0f} | {predicted * 1e6:,.0f} | {100 * (predicted / measured - 1):+.1f} %"
        lines.append(f"| {name} | {batch} | {way} | {times} |")
    return "\n".join(lines)


def _cells(errors: Summed | None, bias: bool) -> str:
    if errors is None:
        return "| | |" + " |" * bias
    sides = f" | {100 * errors.bias:+.1f} %" if bias else ""
    return f"| {errors.count} | {100 * errors.middle:.1f} % | {100 * errors.ninth:.1f} %{sides}"


def picture(layers: Sequence[Timed], gpu: GPU) -> Drawing:
    """Predicted by measured time of every held-out layer, a panel a backend; lines at equal and 20 % off."""
    figure, panels = new_panels(10, 5, 2)
    held = [x for x in layers if x.held_out]
    low, high = 0.8 * min(x.seconds for x in held), 1.2 * max(x.seconds for x in held)
    panels[0].set(
        xscale="log", yscale="log", ylabel="predicted", xlim=(low * 1e6, high * 1e6), ylim=(low * 1e6, high * 1e6)
    )
    said = []
    for axes, backend in zip(panels, ("triton", "cuda")):
        own = [x for x in held if x.backend == backend]
        for kind in (*COLOURS, "other kinds"):
            dots = [x for x in own if x.kind == kind or (kind == "other kinds" and x.kind not in COLOURS)]
            times = [x.seconds * 1e6 for x in dots], [x.predicted(gpu) * 1e6 for x in dots]
            axes.scatter(*times, s=14, alpha=0.7, color=COLOURS.get(kind, GREY), label=kind, zorder=3)
        for factor, style in ((1, "-"), (0.8, ":"), (1.2, ":")):
            axes.plot(
                [low * 1e6, high * 1e6], [low * 1e6 * factor, high * 1e6 * factor], style, color=BLACK, linewidth=0.8
            )
        axes.set(title=f"{backend}, {len(own)} layers", xlabel="measured, us")
        found = Summed.of([x.error(gpu) for x in own])
        said.append(f"{backend}: median error {100 * found.middle:.1f} %, nine in ten within {100 * found.ninth:.1f} %")
    short_ticks(panels[0], "xy")
    panels[0].legend(frameon=False, fontsize=8)
    title = f"Predicted and measured times of layers that the model was not fitted on, {gpu.title}"
    return Drawing(
        figure, title, f"A dot a layer, float16, batches 1 and 32; dotted lines are 20 % off. {'; '.join(said)}."
    )


def write(docs: Path, layers: Sequence[Timed], gpu: GPU, parts: Sequence[str]) -> None:
    """The parts of docs/model.md that are generated, in the order of MARKERS, and the picture.

    Raises InputError for a page without the markers.
    """
    page = docs / "model.md"
    text = page.read_text(encoding="utf-8")
    for name, part in zip(MARKERS, parts):
        text = marked(text, name, part, page)
    write_text(page, text)
    folder, name = (docs / PICTURE).parent, Path(PICTURE).name
    save(picture(layers, gpu), folder, name, ("svg",))
