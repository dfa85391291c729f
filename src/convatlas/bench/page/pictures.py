"""Two pictures a GPU, half precision: speed-up by family, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from convatlas.bench.page.data import FAMILIES, HEADLINE, Race, Report
from convatlas.bench.stats import geometric_mean
from convatlas.study.lecture.drawing import new_figure, save, short_ticks
from convatlas.study.lecture.pictures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

BATCH_STYLES = ((SKY, "o"), (BLUE, "s"), (BLACK, "^"), (ORANGE, "D"))
FAMILY_STYLES = dict(
    zip(
        FAMILIES,
        (
            (BLUE, "o"), (SKY, "s"), (ORANGE, "^"), (GREEN, "D"), (PURPLE, "v"), (RED, "P"), (BLACK, "*"), (GREY, "X"),
            (GREEN, "+"), (GREY, "."),
        ),
    )
)  # fmt: skip
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20)


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes folder/<gpu>-speedup.svg and -roofline.svg, as far as there is something to draw."""
    drawers = {"speedup": speedup, "roofline": roofline}
    return [
        path
        for name in report.pictures
        for path in save(drawers[name](report, report.drawn), folder, f"{report.slug}-{name}", ("svg",))
    ]


def _title(figure: Figure, report: Report) -> None:
    figure.suptitle(f"{report.gpu}, {HEADLINE}, {report.day}, commit {report.commit}", fontsize=10)


def speedup(report: Report, races: Sequence[Race]) -> Figure:
    """A dot a layer, a row a family, a lane a batch size; a bar at the geometric mean."""
    families = [family for family in FAMILIES if any(race.family == family for race in races)]
    batches = sorted({race.setting[1] for race in races})
    figure, axes = new_figure(9, 0.62 * len(families) + 1.4)
    for lane, batch in enumerate(batches):
        colour, marker = BATCH_STYLES[lane % len(BATCH_STYLES)]
        shift = (lane - (len(batches) - 1) / 2) * 0.7 / len(batches)
        label = f"batch {batch}"
        for row, family in enumerate(families):
            ratios = [race.speedup("quicker") for race in races if (race.family, race.setting[1]) == (family, batch)]
            if ratios:
                style = {"s": 16, "color": colour, "marker": marker, "alpha": 0.55, "linewidths": 0}
                axes.scatter(ratios, [row + shift] * len(ratios), **style, label=label, zorder=3)
                middle = geometric_mean(ratios)
                axes.plot([middle] * 2, [row + shift - 0.11, row + shift + 0.11], color=RED, linewidth=2, zorder=4)
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
    _title(figure, report)
    return figure


def roofline(report: Report, races: Sequence[Race]) -> Figure:
    """A dot a layer of ours by `auto` under what this GPU was measured to reach (Williams, Waterman, Patterson 2009)."""
    ceilings = report.results.head["ceilings"]
    bandwidth, rate = ceilings["copy_bytes_per_s"], ceilings["matmul_flops_per_s"][HEADLINE]
    figure, axes = new_figure(9, 5.4)
    races = [race for race in races if race.get("flops") and race.get("bytes")]
    points = {
        family: [(r.get("flops") / r.get("bytes"), r.get("flops") / r.auto.median) for r in races if r.family == family]
        for family in FAMILIES
    }
    for family, found in points.items():
        if found:
            colour, marker = FAMILY_STYLES[family]
            axes.scatter(*zip(*found), s=22, color=colour, marker=marker, alpha=0.75, label=family, zorder=3)
    intensities = [x for found in points.values() for x, _ in found]
    low, high = min(intensities) / 1.5, max(*intensities, 2 * rate / bandwidth) * 1.5
    ridge = rate / bandwidth
    axes.plot([low, ridge, high], [low * bandwidth, rate, rate], color=BLACK, linewidth=1.3)
    axes.text(high / 1.1, rate * 1.08, f"matmul, {rate / 1e12:.0f} TFLOP/s", ha="right", va="bottom", fontsize=9)
    middle = (low * ridge) ** 0.5
    label = f"copy, {bandwidth / 1e12:.2f} TB/s"
    axes.text(middle, middle * bandwidth * 1.5, label, ha="right", va="bottom", fontsize=9)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs a compulsory byte (small layers are bound by the launch, not by either line)",
        ylabel="FLOPs a second",
    )
    axes.set_xlim(low, high)
    short_ticks(axes, "xy")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _title(figure, report)
    return figure
