"""One layer on a GPU, drawn: the GEMM, tiles over the output, waves over the SMs, a block with its shared memory, occupancy.

Each part draws itself under what a picture holds already; `layer` is all of them.
"""

from __future__ import annotations

from math import ceil, prod

from convatlas.model.gpu import GPU
from convatlas.model.occupancy import WARP
from convatlas.model.work import Work
from convatlas.study.drawing.svg import MARGIN, Svg
from convatlas.study.mapping import LaunchMap, LayerMap, Map
from convatlas.study.written import is_layer

SIDE = 260  # pixels of a map's longer side
PANELS = 4  # waves that are drawn
STEPS = 8  # steps of the pipeline that are drawn
STYLES = ("a", "b", "c")


def layer(found: Map, one: LayerMap) -> Svg:
    """All parts of one layer."""
    name = one.layer.op if is_layer(one.layer.path) else one.layer.path or one.layer.op
    picture = Svg(f"{name}: {one.layer.spec}, {found.dtype}, on the {found.gpu.title}")
    picture.say(
        f"Kernel {one.main.work.kernel} ({one.backend}), {one.main.work.config}. Predicted: {one.seconds * 1e6:.1f} us, between "
        f"{one.low * 1e6:.1f} and {one.high * 1e6:.1f} us, limited by {one.limiter}. Nothing here was measured."
    )
    gemm(picture, one)
    tiles(picture, one)
    waves(picture, one, found.gpu)
    block(picture, one, found.gpu)
    pipeline(picture, one)
    occupancy(picture, one)
    return picture


def gemm(picture: Svg, one: LayerMap) -> None:
    """The matrices that the layer multiplies, their sides to a common logarithmic scale; nothing for what is no GEMM."""
    if one.gemm is None:
        return
    M, N, K = one.gemm
    spec = one.layer.spec
    picture.head("From the convolution to a matrix product" if hasattr(spec, "R") else "The matrix product")
    m, n, k = (22 + 9 * (x.bit_length() - 1) for x in (M, N, K))
    y, left = picture.y + 24, MARGIN + 46
    for x, width, height, style, name, rows, columns in (
        (left, k, m, "a", "A: windows", M, K),
        (left + k + 74, n, k, "b", "B: filters", K, N),
        (left + k + n + 148, n, m, "c", "C: outputs", M, N),
    ):
        picture.box(x, y, width, height, style)
        picture.text(x + width / 2, y - 6, f"{columns}", "small", "middle")
        picture.text(x - 4, y + height / 2 + 4, f"{rows}", "small", "end")
        picture.text(x + width / 2, y + height + 16, name, "small", "middle")
    picture.text(left + k + 20, y + min(m, k) / 2 + 4, "×")
    picture.text(left + k + n + 90, y + min(m, k) / 2 + 4, "=")
    picture.y = y + max(m, k) + 22
    if getattr(spec, "R", 1) * getattr(spec, "S", 1) > 1:
        rows = f"the {spec.R}x{spec.S} window of every output pixel over its channels: {K} numbers each. It is never stored"
    else:
        rows = f"the {K} channels of every {'pixel' if hasattr(spec, 'R') else 'row'}: the input as it lies in memory"
    groups = getattr(spec, "groups", 1)
    each = f" There are {groups} such products, one a group." if groups > 1 else ""
    picture.caption("Sides are drawn by their logarithms.")
    picture.say(f"A has {M} rows, {rows}. B holds {N} filters.{each}")


def tiles(picture: Svg, one: LayerMap) -> None:
    """One image of the output, cut into the pixels of tiles; what overhangs is hatched."""
    spec, tile = one.layer.spec, one.main.work.tile
    shape = spec.output_shape
    P, Q = (shape[2], shape[3]) if len(shape) == 4 else (1, prod(shape[:-1]))
    channels = shape[1] if len(shape) == 4 else shape[-1]
    picture.head("The output, cut into tiles")
    y, x = picture.y + 8, MARGIN
    pixels = tile.BM if tile.BN else (prod(tile.box) if tile.box else tile.BM // max(channels, 1))
    if tile.box is not None:
        _boxes(picture, x, y, P, Q, tile.box)
    elif P * Q > 1 and pixels:
        _runs(picture, x, y, P, Q, pixels)
    else:
        picture.y = y
    right = x + SIDE + 70
    if tile.BN and channels:
        _filters(picture, right, y, channels, tile.BN)
    images = f" of {tile.box[0]} images" if tile.box and tile.box[0] > 1 else ""
    if tile.box is not None:
        said = f"A tile is a box of {tile.box[1]} x {tile.box[2]} output pixels{images}"
    elif pixels:
        said = f"A tile is a run of {pixels} output pixels, row after row and on into the next image"
    else:
        said = f"A tile is a run of {tile.BM} outputs, less than the {channels} channels of a pixel"
    said += f", by {tile.BN} filters." if tile.BN else "."
    waste = ""
    if one.waste is not None:
        waste = " None of the tiles' products are of no use."
        if one.waste >= 0.0005:
            waste = f" {100 * one.waste:.1f} % of the tiles' products are of no use."
    split = f" {tile.split} blocks share the reduction of each tile." if tile.split > 1 else ""
    numbers = (
        "A tile's number stands at its first pixel. " if not tile.box and pixels and _numbered(P, Q, pixels) else ""
    )
    picture.caption(f"{numbers}Hatched: what tiles overhang.")
    picture.say(f"One image of {P} x {Q} pixels. {said} The launch has {tile.count} tiles.{split}{waste}")


def _scale(P: int, Q: int) -> float:
    return min(SIDE / max(P, Q), 40)


def _boxes(picture: Svg, x: float, y: float, P: int, Q: int, box: tuple[int, int, int]) -> None:
    _, height, width = box
    rows, columns = ceil(P / height), ceil(Q / width)
    scale = _scale(rows * height, columns * width)
    picture.box(x, y, columns * width * scale, rows * height * scale, "waste")
    for r in range(rows):
        for c in range(columns):
            inside = min(height, P - r * height), min(width, Q - c * width)
            style = "a" if r == c == 0 else "none"
            picture.box(x + c * width * scale, y + r * height * scale, inside[1] * scale, inside[0] * scale, style)
    for r in range(rows):
        picture.line(x, y + r * height * scale, x + columns * width * scale, y + r * height * scale)
    for c in range(columns):
        picture.line(x + c * width * scale, y, x + c * width * scale, y + rows * height * scale)
    picture.box(x, y, Q * scale, P * scale, "strong")
    picture.y = y + rows * height * scale + 4


def _runs(picture: Svg, x: float, y: float, P: int, Q: int, pixels: int) -> None:
    scale = _scale(P, Q)
    at, numbered = 0, _numbered(P, Q, pixels)
    while at < P * Q:
        row, column = divmod(at, Q)
        number = at // pixels
        length = min(Q - column, (number + 1) * pixels - at)
        if number % 2 == 0:
            picture.box(x + column * scale, y + row * scale, length * scale, scale, "on" if number == 0 else "alt")
        if at % pixels == 0 and numbered:
            picture.text(x + column * scale + 3, y + row * scale + 11, f"{number}", "small")
        at += length
    picture.box(x, y, Q * scale, P * scale, "strong")
    picture.y = y + P * scale + 4


def _numbered(P: int, Q: int, pixels: int) -> bool:
    """Whether a tile's number finds room at its first pixel."""
    return P * Q > pixels and _scale(P, Q) * max(pixels / Q, 1) >= 12


def _filters(picture: Svg, x: float, y: float, K: int, BN: int) -> None:
    count = ceil(K / BN)
    scale = 200 / (count * BN)
    picture.text(x, y + 11, f"{K} filters, {BN} a tile", "small")
    picture.box(x, y + 18, count * BN * scale, 18, "waste")
    for i in range(count):
        picture.box(x + i * BN * scale, y + 18, min(BN, K - i * BN) * scale, 18, "a" if i == 0 else "none")
    picture.y = max(picture.y, y + 44)


def waves(picture: Svg, one: LayerMap, gpu: GPU) -> None:
    """The SMs, wave by wave: which places have a block."""
    main = one.main
    work, held = main.work, main.occupancy
    picture.head("Blocks on the SMs, wave by wave")
    if held is None or not held.blocks:
        picture.say(
            "How many blocks an SM holds is not known, since the kernel was not compiled."
            if held is None
            else "No SM can hold a block."
        )
        return
    stays = work.tile.count > work.grid
    # Programs that stay: a wave is a tile for each of them.
    units, slots = (work.tile.count, work.grid) if stays else (work.grid, held.blocks * gpu.sms)
    count = ceil(units / slots)
    each = max(min(held.blocks, ceil(work.grid / gpu.sms)), 1)
    chosen = range(count) if count <= PANELS else (0, 1, count - 2, count - 1)
    columns = 12
    cell = (picture.inner / PANELS - 18) / columns
    y = picture.y + 20
    for panel, wave in enumerate(chosen):
        x = MARGIN + panel * picture.inner / PANELS
        filled = min(slots, units - wave * slots)
        picture.text(x, y - 6, f"wave {wave + 1} of {count}: {filled} {'tiles' if stays else 'blocks'}", "small")
        for sm in range(gpu.sms):
            left, top = x + sm % columns * cell, y + sm // columns * (cell * 0.8)
            # Blocks are dealt out SM after SM, a first one to each, then a second one.
            busy = len(range(sm, filled, gpu.sms))
            if each <= 4:
                for i in range(each):
                    place = left + i * cell / each + 0.5
                    picture.box(place, top, cell / each - 1, cell * 0.7, "solid" if i < busy else "frame")
            else:  # too many to be drawn each: the SM is filled by their share
                picture.box(left + 0.5, top, cell - 1, cell * 0.7, "frame")
                picture.box(left + 0.5, top, (cell - 1) * busy / each, cell * 0.7, "solid")
    picture.y = y + ceil(gpu.sms / columns) * cell * 0.8 + 4
    picture.caption("A cell is an SM, with a place for each block that it holds; hollow: idle.")
    kind = f"{work.grid} programs stay and take {work.tile.count} tiles" if stays else f"{work.grid} blocks"
    skipped = f" Of {count} waves the first and last two are drawn." if count > PANELS else ""
    picture.say(
        f"{kind}; an SM holds {held.blocks} at once, the {gpu.sms} SMs {slots}: {main.waves:.2f} waves. In the last one "
        f"{100 * main.idle:.0f} % of the places idle.{skipped} A real GPU gives a place to the next block as soon as one "
        "ends, so that waves blur."
    )


def block(picture: Svg, one: LayerMap, gpu: GPU) -> None:
    """A block's tile and its warps, and what it takes of the SM's shared memory."""
    main = one.main
    work, tile = main.work, main.work.tile
    warps = work.threads // WARP
    picture.head("A block: its warps and its shared memory")
    y = picture.y + 10
    if tile.BN:
        height, width = (min(150, 24 + tile.BM * 0.5), min(200, 24 + tile.BN * 0.7))
        for i in range(warps):
            top = y + i * height / warps
            picture.box(MARGIN, top, width, height / warps, STYLES[i % 2])
            if height / warps >= 11:
                picture.text(MARGIN + width / 2, top + height / warps / 2 + 4, f"warp {i}", "small", "middle")
        picture.text(MARGIN + width + 8, y + height / 2, f"{tile.BM} pixels", "small")
        picture.text(MARGIN + width / 2, y + height + 14, f"{tile.BN} filters", "small", "middle")
        bottom = y + height + 18
    else:
        bottom = y
    left = MARGIN + 290
    if main.shared is not None and main.shared and main.occupancy is not None and main.occupancy.blocks:
        _shared(picture, left, y, main, gpu)
        bottom = max(bottom, y + 64)
    picture.y = bottom
    each = tile.BM * tile.BN // work.threads
    sums = f"The {tile.BM} x {tile.BN} sums are divided among {warps} warps, {each} a thread: "
    sums += "the compiler says which." if work.backend == "triton" else "each owns a rectangle."
    if tile.BN:
        picture.caption("A strip a warp; where its sums really lie is not drawn.")
    if work.gemm and work.stages > 1:
        sums += _brought(work)
    picture.say(
        (sums if tile.BN else f"{work.threads} threads in {warps} warps.")
        + (
            f" A thread has {main.registers} registers, a block takes {main.shared} bytes of shared memory."
            if main.shared is not None
            else ""
        )
    )


def _brought(work: Work) -> str:
    """What a step brings to shared memory, in a sentence."""
    tile = work.tile
    step = (tile.BM + tile.BN) * tile.BK * work.size
    if work.copied:
        how = "one thread asks the copy engine for it"
    else:
        how = f"{max(step // 16 // work.threads, 1)} vectors of 16 bytes a thread, where its operands can be read so"
    return f" Each of the {tile.steps} steps brings {step / 1024:.0f} KB of A and B to shared memory: {how}."


def _shared(picture: Svg, x: float, y: float, main: LaunchMap, gpu: GPU) -> None:
    a, work, tile = gpu.architecture, main.work, main.work.tile
    scale = (picture.width - MARGIN - x) / a.shared
    picture.text(x, y + 11, f"shared memory of an SM: {a.shared // 1024} KB, blocks: {main.occupancy.blocks}", "small")
    y += 18
    picture.box(x, y, a.shared * scale, 26, "none")
    taken = main.shared + a.reserved_shared
    stage = [tile.BM * tile.BK * work.size, tile.BN * tile.BK * work.size]
    # A kernel without a pipeline keeps something else there, such as a patch of the image.
    staged = work.gemm and work.stages > 1 and work.stages * sum(stage) <= taken
    for i in range(main.occupancy.blocks):
        at = x + i * taken * scale
        picture.box(at, y, taken * scale, 26, "waste")
        for s in range(work.stages if staged else 0):
            for j, size in enumerate(stage):
                start = at + (s * sum(stage) + j * stage[0]) * scale
                picture.box(start, y, size * scale, 26, STYLES[j], f"block {i}, stage {s}, {'AB'[j]}: {size} bytes")
        picture.box(at, y, taken * scale, 26, "strong")
    said = (
        f"{work.stages} stages: A blue, left; B orange, right; hatched: the rest of a block"
        if staged
        else "hatched: a block's"
    )
    picture.text(x, y + 42, said, "small")


def pipeline(picture: Svg, one: LayerMap) -> None:
    """Copies and products of the first steps; nothing for what has no pipeline."""
    work = one.main.work
    if not work.gemm or work.stages < 2:
        return
    steps, ahead = min(work.tile.steps, STEPS), work.stages - 1
    picture.head("The pipeline in shared memory")
    y, x0 = picture.y + 8, MARGIN + 76
    width = (picture.width - MARGIN - x0) / (steps + ahead)
    for row, name in enumerate(("copy", "multiply")):
        picture.text(MARGIN, y + row * 28 + 16, name, "small")
    for i in range(steps):
        start = max(i - ahead, -ahead) + ahead
        picture.box(x0 + start * width + 1, y, width - 2, 22, "b")
        picture.text(x0 + (start + 0.5) * width, y + 15, f"{i}>{i % work.stages}", "small", "middle")
        picture.box(x0 + (i + ahead) * width + 1, y + 28, width - 2, 22, "a")
        picture.text(x0 + (i + ahead + 0.5) * width, y + 43, f"{i}", "small", "middle")
    picture.y = y + 56
    picture.caption("step>stage; widths are no times.")
    more = f" The first {steps} of {work.tile.steps} steps are drawn." if steps < work.tile.steps else ""
    picture.say(
        f"A step multiplies {work.tile.BK} products of each sum. While one is multiplied, copies of the next {ahead} are under way "
        f"into other stages.{more}"
    )


def occupancy(picture: Svg, one: LayerMap) -> None:
    """Blocks an SM that each resource would allow."""
    held = one.main.occupancy
    picture.head("What limits the blocks on an SM")
    if held is None:
        picture.say("Registers and shared memory are not known, since the kernel was not compiled.")
        return
    y, x, most = picture.y + 6, MARGIN + 110, max(n or 0 for n in held.limits.values()) or 1
    scale = (picture.width - MARGIN - x - 70) / most
    for i, (name, n) in enumerate(held.limits.items()):
        top = y + i * 24
        picture.text(MARGIN, top + 14, name)
        if n is None:
            picture.text(x, top + 14, "not used", "small")
            continue
        least = name in held.limiters
        picture.box(x, top, n * scale, 18, "b" if least else "none")
        picture.text(x + n * scale + 6, top + 14, f"{n}{', the limit' if least else ''}", "" if least else "small")
    picture.y = y + len(held.limits) * 24
    blocks = f"{held.blocks} block{'s' if held.blocks != 1 else ''}"
    picture.say(
        f"An SM holds {blocks}, together {held.warps} warps, {100 * held.share:.0f} % of the warps that it could, by "
        f"{' and '.join(held.limiters)}."
    )
