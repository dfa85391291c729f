"""The parts of a picture as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from convatlas.model.occupancy import WARP
from convatlas.study.drawing.layer import STEPS
from convatlas.study.explaining import Explanation
from convatlas.study.mapping import LayerMap

BAR = 40  # characters
ROWS = 16  # of a map


def drawn(one: Explanation) -> dict[str, Callable[[], list[str]]]:
    """What is drawn under the heads of drawing.layer and drawing.explained."""
    layer = one.layer
    return {
        "From the convolution to a matrix product": lambda: gemm(layer),
        "The matrix product": lambda: gemm(layer),
        "The output, cut into tiles": lambda: tiles(layer),
        "Blocks on the SMs, wave by wave": lambda: waves(layer),
        "A block: its warps and its shared memory": lambda: block(layer),
        "The pipeline in shared memory": lambda: pipeline(layer),
        "What limits the blocks on an SM": lambda: occupancy(layer),
        "Why this config": lambda: candidates(one),
    }


def gemm(one: LayerMap) -> list[str]:
    """The product with its sizes."""
    if one.gemm is None:
        return []
    M, N, K = one.gemm
    return [f"A [{M} x {K}]  x  B [{K} x {N}]  =  C [{M} x {N}]"]


def tiles(one: LayerMap) -> list[str]:
    """One image of the output; tiles side by side are # and . in turn."""
    spec, tile = one.layer.spec, one.main.work.tile
    shape = spec.output_shape
    if len(shape) != 4 or max(shape[2:]) == 1:
        return []
    P, Q = shape[2:]
    step = ceil(max(P, Q) / (2 * ROWS))
    pixels = tile.BM if tile.BN else max(tile.BM // max(shape[1], 1), 1)

    def mark(p: int, q: int) -> str:
        number = p // tile.box[1] + q // tile.box[2] if tile.box else (p * Q + q) // pixels
        return "#."[number % 2]

    rows = ["".join(mark(p, q) for q in range(0, Q, step)) for p in range(0, P, 2 * step)]
    return [*rows, f"(a character is {step} pixel{'s' if step > 1 else ''} wide and {2 * step} high)"]


def waves(one: LayerMap) -> list[str]:
    """A bar a wave, filled as far as there are blocks."""
    main = one.main
    if main.occupancy is None or not main.waves:
        return []
    count = ceil(main.waves)
    shown = range(count) if count <= 4 else (0, 1, count - 1)
    lines = []
    for wave in shown:
        filled = round(BAR * min(1.0, main.waves - wave))
        lines.append(f"wave {wave + 1:>3} [{'#' * filled}{' ' * (BAR - filled)}]")
    if count > 4:
        lines.insert(2, "     ...")
    return lines


def block(one: LayerMap) -> list[str]:
    """The warps of a block as strips of its tile."""
    work, tile = one.main.work, one.main.work.tile
    if not tile.BN:
        return []
    warps = work.threads // WARP
    rows, sums = tile.BM // warps, tile.BM * tile.BN // warps
    edge = f"+{'-' * 34}+"
    strips = [f"|{f' warp {i}: {sums} sums, {sums // WARP} a thread':<34}|" for i in range(warps)]
    return [edge, *strips, edge, f"{tile.BM} pixels high (about {rows} a warp), {tile.BN} filters wide"]


def pipeline(one: LayerMap) -> list[str]:
    """Which step is copied and which multiplied at the same time."""
    work = one.main.work
    if not work.gemm or work.stages < 2:
        return []
    steps, ahead = min(work.tile.steps, STEPS), work.stages - 1
    return [
        "copy     " + "".join(f"[{i}]" for i in range(steps)),
        "multiply " + "   " * ahead + "".join(f"[{i}]" for i in range(steps)),
    ]


def occupancy(one: LayerMap) -> list[str]:
    """Blocks an SM that each resource would allow."""
    held = one.main.occupancy
    if held is None:
        return []
    most = max(n or 0 for n in held.limits.values()) or 1
    return [
        f"{name:<14}{'#' * max(round(BAR * n / most), 1)} {n}{'  <- the limit' if name in held.limiters else ''}"
        for name, n in held.limits.items()
        if n is not None
    ]


def candidates(one: Explanation) -> list[str]:
    """Predicted times as bars."""
    rows = [(c.name, c.mapped.seconds, c.chosen) for c in one.candidates]
    if not rows:
        return []
    most, wide = max(seconds for _, seconds, _ in rows), max(len(name) for name, _, _ in rows)
    return [
        f"{name:<{wide}} {'#' * round(BAR / 2 * seconds / most)} {seconds * 1e6:.1f} us{'  <- chosen' if chosen else ''}"
        for name, seconds, chosen in rows
    ]
