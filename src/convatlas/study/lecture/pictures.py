"""The pictures: parameters against MACs, activations by depth, work by kind of layer, growth of the receptive field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convatlas.nets import registry
from convatlas.specs import itemsize
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INDIGO,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WINE,
    Drawing,
    new_figure,
    place_labels,
    short_ticks,
)  # fmt: skip
from convatlas.study.numbers import short
from convatlas.study.summary import KINDS, Summary

# module of nets/ -> (name in the legend, colour, marker)
FAMILIES = {
    "alexnet": ("AlexNet", BLACK, "p"),
    "vgg": ("VGG", ORANGE, "s"),
    "googlenet": ("GoogLeNet", SKY, "^"),
    "resnet": ("ResNet, ResNeXt, wide", BLUE, "o"),
    "wide_resnet": ("Wide ResNet, 32x32 pixels", PURPLE, "P"),
    "nin": ("NiN", INDIGO, "D"),
    "squeezenet": ("SqueezeNet", RED, "v"),
    "mobilenet": ("MobileNet", GREEN, "*"),
    "efficientnet": ("EfficientNet-Lite", WINE, "X"),
}
KIND_STYLES = {
    "1x1": (BLUE, ""),
    "3x3": (ORANGE, "//"),
    "depthwise": (GREEN, "||"),
    "fc": (RED, "xx"),
    "other": (GREY, ""),
}
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}  # a number on a hatched bar
BY_DEPTH = {
    "alexnet": BLACK,
    "vgg16": ORANGE,
    "googlenet_2014": SKY,
    "resnet50": BLUE,
    "squeezenet1_0": RED,
    "mobilenet_v2": GREEN,
}
GROWTH = {**BY_DEPTH, "resnet152": PURPLE}
MARKERS = dict(zip(GROWTH, ("o", "s", "^", "D", "v", "*", "")))


@dataclass(frozen=True)
class Picture:
    """A file name without its ending, what is drawn, and the function that draws it and says in words what it shows."""

    name: str
    caption: str
    plot: Callable[[Atlas], tuple[Figure, str]]

    def draw(self, atlas: Atlas) -> Drawing:
        figure, description = self.plot(atlas)
        return Drawing(figure, self.caption, description)


def chosen(atlas: Atlas) -> dict[str, Summary]:
    """All networks but those that differ from another by batch norms alone."""
    return {name: atlas.summary(name) for name in registry.names() if not name.endswith("_bn")}


def parameters_macs(atlas: Atlas) -> tuple[Figure, str]:
    """A point a network, both axes logarithmic, labels where they do not touch."""
    figure, axes = new_figure(9, 6.2)
    points = []
    for name, s in chosen(atlas).items():
        label, colour, marker = FAMILIES[registry.info(name).module]
        axes.scatter(s.macs, s.parameters, s=60, color=colour, marker=marker, label=label, zorder=3)
        points.append((s.macs, s.parameters, name))
    axes.set(xscale="log", yscale="log", xlabel="MACs for one image", ylabel="parameters")
    axes.set_xlim(2e8, 6e10)
    axes.set_ylim(9e5, 3e8)
    short_ticks(axes, "xy")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(handles.values(), handles.keys(), loc="lower right", frameon=False)
    place_labels(axes, points)
    sizes = (f"{name} {short(macs)} MACs, {short(parameters)} parameters" for macs, parameters, name in points)
    return figure, f"A point a network, both axes logarithmic. {'; '.join(sizes)}."


def activations(atlas: Atlas) -> tuple[Figure, str]:
    """Bytes that have been written when all layers of a depth are done."""
    figure, axes = new_figure(9, 5)
    totals = []
    for name in BY_DEPTH:
        s = atlas.summary(name)
        sizes = dict.fromkeys(range(s.depth + 1), 0)
        sizes[0] = prod(s.input_shape)
        for depth, row in zip(s.depths, s.rows):
            sizes[depth] += prod(row.spec.output_shape)
        written = [itemsize(s.dtype) * n for n in accumulate(sizes.values())]
        line(axes, name, list(sizes), written, f"{name}, {short(written[-1], 'B')}")
        totals.append(f"{name} {short(written[-1], 'B')} after {s.depth} weighted layers")
    axes.set(xlabel="weighted layers, on the longest path", ylabel="activations written so far, float16")
    axes.set_ylim(0)
    short_ticks(axes, "y", "B")
    axes.legend(frameon=False, loc="lower right")
    return figure, f"A line a network, from the image to the last layer, float16. In all: {'; '.join(totals)}."


def line(axes: Axes, name: str, x: list[int], y: list[int], label: str) -> None:
    """One network's line, in its colour and with its marks."""
    axes.plot(x, y, color=GROWTH[name], marker=MARKERS[name], label=label, markersize=4, linewidth=1.2)


def work(atlas: Atlas) -> tuple[Figure, str]:
    """A bar a network, its MACs by kind of layer; hatched, so that it can be read without colour."""
    nets = chosen(atlas)
    figure, axes = new_figure(9, 0.27 * len(nets) + 1.2)
    left = [0.0] * len(nets)
    for kind, (colour, hatch) in KIND_STYLES.items():
        shares = [100 * s.share(kind) for s in nets.values()]
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        bars = axes.barh(list(nets), shares, 0.75, left, label=kind, **style)
        left = [a + b for a, b in zip(left, shares)]
        numbers = [f"{x:.0f}" if x >= 5 else "" for x in shares]
        axes.bar_label(bars, numbers, label_type="center", fontsize=8, bbox=BEHIND)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of the MACs, percent")
    axes.grid(False)
    axes.margins(y=0.01)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(KINDS), frameon=False)
    parts = (
        f"{name} " + ", ".join(f"{kind} {100 * s.share(kind):.0f} %" for kind in KINDS if s.share(kind) >= 0.005)
        for name, s in nets.items()
    )
    return figure, f"A bar a network, divided by kind of layer. {'; '.join(parts)}."


def growth(atlas: Atlas) -> tuple[Figure, str]:
    """The largest receptive field at each depth, up to the last map of more than one pixel."""
    figure, axes = new_figure(9, 5)
    last = []
    for name in GROWTH:
        s = atlas.summary(name)
        largest: dict[int, int] = {}
        for depth, row in zip(s.depths, s.rows):
            if len(row.spec.output_shape) == 4 and row.spec.output_shape[2] > 1:
                largest[depth] = max(largest.get(depth, 0), row.fields[0].size)
        line(axes, name, sorted(largest), [largest[depth] for depth in sorted(largest)], name)
        last.append(f"{name} {largest[max(largest)]:,} pixels after {max(largest)} weighted layers")
    axes.axhline(224, color=GREY, linestyle="--", linewidth=1)
    axes.text(150, 224, "the image, 224 pixels", va="bottom", ha="right", color="#555555")
    axes.set(yscale="log", xlabel="weighted layers, on the longest path", ylabel="receptive field, pixels along a side")
    axes.set_yticks([3, 10, 30, 100, 300, 1000], ["3", "10", "30", "100", "300", "1000"])
    axes.legend(frameon=False)
    return figure, f"A line a network, and one at the 224 pixels of the image. At its end: {'; '.join(last)}."


PICTURES = (
    Picture("parameters_macs", "Parameters against MACs, one point a network.", parameters_macs),
    Picture("work", "Where the MACs are: shares of each network's MACs by kind of layer.", work),
    Picture(
        "activations",
        "Activation memory by depth: the bytes that have been written for one image when a layer is done.",
        activations,
    ),
    Picture("receptive_field", "How the receptive field grows with depth.", growth),
)
