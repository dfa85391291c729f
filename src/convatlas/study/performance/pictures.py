"""Two pictures a GPU, half precision: speed-up by family, and the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from convatlas.results.standings import Race
from convatlas.results.stats import geometric_mean
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
    VIOLET,
    WINE,
    Drawing,
    new_figure,
    new_panels,
    point_out,
    save,
    short_ticks,
)  # fmt: skip
from convatlas.study.performance.data import FAMILIES, HEADLINE, Report

BATCH_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"))
FAMILY_STYLES = dict(
    zip(
        FAMILIES,
        (
            (BLUE, "o"), (SKY, "s"), (ORANGE, "^"), (GREEN, "D"), (PURPLE, "v"), (RED, "P"), (BLACK, "*"), (GREY, "X"),
            (WINE, "+"), (INDIGO, "."), (VIOLET, "x"),
        ),
    )
)  # fmt: skip
NAMED = 5  # layers a panel of the roofline
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20)


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes folder/<gpu>-speedup.svg and -roofline.svg, as far as there is something to draw."""
    return [
        path
        for name in report.pictures
        for path in save(DRAWERS[name](report, report.drawn), folder, f"{report.slug}-{name}", ("svg",))
    ]


def measured(report: Report) -> str:
    """What the pictures rest on."""
    return f"{report.gpu}, {HEADLINE}, {report.day}, commit {report.commit}"


def speedup(report: Report, races: Sequence[Race]) -> Drawing:
    """A dot a layer, a row a family, a lane a batch size; a bar at the geometric mean."""
    families = [family for family in FAMILIES if any(race.kind == family for race in races)]
    batches = sorted({race.setting[1] for race in races})
    figure, axes = new_figure(9, 0.62 * len(families) + 1.4)
    said = []
    for lane, batch in enumerate(batches):
        colour, marker = BATCH_STYLES[lane % len(BATCH_STYLES)]
        shift = (lane - (len(batches) - 1) / 2) * 0.7 / len(batches)
        label = name = f"batch {batch}"
        for row, family in enumerate(families):
            ratios = [race.speedup("quicker") for race in races if (race.kind, race.setting[1]) == (family, batch)]
            if ratios:
                style = {"s": 16, "color": colour, "marker": marker, "alpha": 0.55, "linewidths": 0}
                axes.scatter(ratios, [row + shift] * len(ratios), **style, label=label, zorder=3)
                middle = geometric_mean(ratios)
                axes.plot([middle] * 2, [row + shift - 0.11, row + shift + 0.11], color=BLACK, linewidth=2, zorder=4)
                said.append(f"{family} at {name} {middle:.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
                label = None
    axes.axvline(1, color=GREY, linewidth=1.2)
    axes.set(
        xscale="log",
        xlabel="time of the quicker peer / ours by auto: right of 1, ours takes less (bar: geometric mean)",
    )
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(families)), families)
    axes.invert_yaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(measured(report), fontsize=10)
    return Drawing(
        figure,
        f"Time of the quicker peer over ours, by family of layers and batch: {measured(report)}",
        f"A dot a layer; right of 1 ours takes less time. Geometric means and ranges: {'; '.join(said)}.",
    )


def roofline(report: Report, races: Sequence[Race]) -> Drawing:
    """A panel a batch, in it a dot a layer of ours by `auto` under what this GPU was measured to reach (Williams, Waterman,
    Patterson 2009); by name the layers that stay farthest below it, as `excess` measures."""
    ceilings = report.results.head["ceilings"]
    bandwidth, rate = ceilings["copy_bytes_per_s"], ceilings["matmul_flops_per_s"][HEADLINE]
    ridge = rate / bandwidth
    races = [race for race in races if race.get("flops") and race.get("bytes")]
    intensities = [_point(race)[0] for race in races]
    low, high = min(intensities) / 1.5, max(*intensities, 2 * ridge) * 1.5
    batches = sorted({race.setting[1] for race in races})
    figure, panels = new_panels(max(9, 0.5 + 5.4 * len(batches)), 5.8, len(batches))
    panels[0].set(xscale="log", yscale="log", ylabel="FLOPs a second", xlim=(low, high))
    panels[0].set_ylim(min(_point(race)[1] for race in races) / 2, 2.5 * rate)
    short_ticks(panels[0], "xy")
    said = []
    for batch, axes in zip(batches, panels):
        found = [race for race in races if race.setting[1] == batch]
        for family, (colour, marker) in FAMILY_STYLES.items():
            dots = [_point(race) for race in found if race.kind == family]
            # Every panel lists every family of the picture, so that each legend would be the whole one.
            if any(race.kind == family for race in races):
                style = {"s": 18, "color": colour, "marker": marker, "alpha": 0.75, "label": family, "zorder": 3}
                axes.scatter([x for x, _ in dots], [y for _, y in dots], **style)
        axes.plot([low, ridge, high], [low * bandwidth, rate, rate], color=BLACK, linewidth=1.3)
        axes.text(high / 1.1, rate * 1.08, f"matmul, {rate / 1e12:.0f} TFLOP/s", ha="right", va="bottom", fontsize=8)
        middle = (low * ridge) ** 0.5
        label = f"copy, {bandwidth / 1e12:.2f} TB/s"
        axes.text(middle, middle * bandwidth * 1.5, label, ha="right", va="bottom", fontsize=8)
        axes.set_title(f"batch {batch}", fontsize=10)
        axes.set_xlabel("FLOPs a compulsory byte")
        farthest = sorted(((excess(race, ceilings), race) for race in found), key=lambda pair: -pair[0])[:NAMED]
        names = [(*_point(race), f"{_short_name(race)}: {times:.1f}x") for times, race in farthest]
        roof = [(x, min(x * bandwidth, rate)) for x in np.geomspace(low, high, 60)]
        point_out(axes, names, [*map(_point, found), *roof])
        said.append(f"batch {batch}, {len(found)} layers, farthest {', '.join(name for *_, name in names)}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=10, frameon=False)
    explained = "by name: the largest multiples of the time that the lines and an empty launch allow"
    figure.suptitle(f"{measured(report)}\n{explained}", fontsize=10)
    return Drawing(
        figure,
        f"Roofline, FLOPs a second of our layers against their FLOPs a byte, by batch: {measured(report)}",
        f"A dot a layer under the measured copy, {bandwidth / 1e12:.2f} TB/s, and matmul, {rate / 1e12:.0f} TFLOP/s. "
        f"By name the largest multiples of the time that these and an empty launch allow: {'; '.join(said)}.",
    )


def _point(race: Race) -> tuple[float, float]:
    """(FLOPs a byte, FLOPs a second)."""
    return race.get("flops") / race.get("bytes"), race.get("flops") / race.auto.median


def excess(race: Race, ceilings: Mapping[str, Any]) -> float:
    """Time of ours by `auto` over what the measured ceilings and an empty launch allow; small layers are bound by the last."""
    rate, bandwidth = ceilings["matmul_flops_per_s"][HEADLINE], ceilings["copy_bytes_per_s"]
    least = max(race.get("flops") / rate, race.get("bytes") / bandwidth) + (ceilings.get("launch_seconds") or 0)
    return race.auto.median / least


def _short_name(race: Race) -> str:
    """The layer without what is fused behind it."""
    return race.layer.removesuffix(race.get("epilogue") or "").strip()


DRAWERS = {"speedup": speedup, "roofline": roofline}
