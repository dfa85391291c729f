"""How a run of layers becomes tasks: the parts that each layer's tiles are summed in, and the table that the kernel reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.override import forced
from convatlas.specs import INPUT, BlockSpec, Conv2dSpec, Part

if TYPE_CHECKING:
    from convatlas.kernels.common.target import Target

# persistent.cu's: a tile of 64 pixels x 32 filters, 64 products a step, threads, layers of a launch, words from counter to counter.
BM, BN, STEP, THREADS, LAYERS, COUNTER = 64, 32, 64, 128, 48, 32
STAGE = (BM + BN) * STEP * 2  # bytes
# Two blocks an SM: one copies its filters and waits while the other multiplies. Six stages: five steps of a task's filters, mostly
# all of them, are there before it may begin; two blocks take 146 of the 164 KiB that an A100's SM has.
STAGES, RESIDENT = 6, 2
SHARED = STAGES * STAGE + 16
PIXELS = 1024  # of a layer's output, all images together: beyond that a launch of its own fills the GPU
NOTHING = 0xFFFF
MOST_PARTS = 16

# Clocks, of which no GPU has measured any. A step copies 12 KB from L2, and a part of a sum is 8 KB that one block reads again, at
# the 56 bytes a clock that the time model fitted. A hop is what lies between two layers even where nothing is multiplied: the last
# store and its fence, the counter's addition, the other block's look at it, the first pixels' way from L2: four ways through L2 of
# about 700 clocks each (the model's `latency` is 1,040 with DRAM behind it). Who joins parts waits twice more.
L2_BYTES = 56.1
STEP_CLOCKS, PART_CLOCKS = STAGE / L2_BYTES, BM * BN * 4 / L2_BYTES
HOP, JOIN = 2800, 1400


@dataclass(frozen=True)
class Row:
    """A layer of the table.

    Attributes:
        part: the layer.
        split: parts that each tile is summed in.
        first: number of its first task.
        counter: the word that counts its first tile's parts; the other tiles' follow.
        slot: where its partial sums begin, in parts of 64 x 32.
        map: where its output begins in the maps between layers, in elements; -1 for the last layer's, which is the launch's.
        sources: the layers that its input and its residual are of: 0 for the run's input, i + 1 for layer i's, NOTHING for none.
    """

    part: Part
    split: int
    first: int
    counter: int
    slot: int
    map: int
    sources: tuple[int, int]

    @property
    def tiles(self) -> int:
        """Tiles of its output."""
        return tiles(self.part.spec)

    @property
    def tasks(self) -> int:
        """Its tasks: the parts of all tiles."""
        return self.tiles * self.split

    @property
    def packed(self) -> list[int]:
        """Its eight words, as persistent.cu's Layer takes them apart."""
        s = self.part.spec
        activation = {None: 0, "relu": 1, "relu6": 2}[self.part.epilogue.activation]
        (top, _), (left, _) = s.padding
        small = (s.R, s.S, *s.stride, top, left, activation)
        source, residual = self.sources
        return [
            s.C | s.K << 32,
            s.H | s.W << 32,
            s.P | s.Q << 32,
            sum(value << 8 * i for i, value in enumerate(small)),
            source | residual << 16 | self.split << 32,
            self.first | s.N * s.P * s.Q << 32,
            self.counter | self.slot << 32,
            self.map,
        ]


@dataclass(frozen=True)
class Table:
    """The rows of a launch, and the workspace that they need."""

    rows: tuple[Row, ...]
    slots: int
    elements: int
    words: int

    @property
    def tasks(self) -> int:
        """All tasks."""
        return sum(row.tasks for row in self.rows)


def tiles(spec: Conv2dSpec) -> int:
    """Tiles of a layer's output."""
    return cdiv(spec.N * spec.P * spec.Q, BM) * (spec.K // BN)


def steps(spec: Conv2dSpec) -> int:
    """Steps of a whole sum."""
    return spec.R * spec.S * spec.C // STEP


def clocks(spec: Conv2dSpec, split: int, sms: int) -> float:
    """Clocks from where a layer may begin to where the next one may, its tiles summed in `split` parts."""
    each = cdiv(tiles(spec) * split, sms)  # tasks of the SM that has most
    joined = JOIN + split * PART_CLOCKS if split > 1 else 0.0
    return HOP + each * cdiv(steps(spec), split) * STEP_CLOCKS + joined


@dataclass(frozen=True)
class Parts:
    """The number of parts of every tile, where its sum has as many steps: for `override`."""

    number: int


def split_for(spec: Conv2dSpec, sms: int) -> int:
    """The number of parts that takes the fewest clocks."""
    if given := forced(Parts):
        return min(given.number, steps(spec))
    return min(range(1, min(steps(spec), MOST_PARTS) + 1), key=lambda split: clocks(spec, split, sms))


def table(spec: BlockSpec, target: Target) -> Table:
    """The rows of a run's layers for a GPU.

    Partial sums of two layers share a place in the workspace where the later one can only begin once the earlier one is finished,
    since its input comes from it, at whatever distance.
    """
    names = {part.name: i for i, part in enumerate(spec.parts)}
    counter = COUNTER * (len(names) + 1)
    task = element = 0
    rows: list[Row] = []
    behind: list[set[int]] = []  # of each layer, those that are finished before it begins
    lanes: list[list[int]] = []  # layers that share a place, each behind all before it
    sizes: list[int] = []
    own: list[int] = []
    for i, part in enumerate(spec.parts):
        reads = part.sources
        sources = [_number(reads["input"], names), _number(reads.get("residual"), names)]
        before = {s - 1 for s in sources if 0 < s < NOTHING}
        behind.append(before.union(*(behind[j] for j in before)))
        split, count, last = split_for(part.spec, target.sms), tiles(part.spec), i == len(names) - 1
        lane = next((n for n, given in enumerate(lanes) if set(given) <= behind[i]), len(lanes))
        if split == 1:
            lane = -1
        elif lane == len(lanes):
            lanes.append([i])
            sizes.append(count * split)
        else:
            lanes[lane].append(i)
            sizes[lane] = max(sizes[lane], count * split)
        own.append(lane)
        rows.append(Row(part, split, task, counter, 0, -1 if last else element, tuple(sources)))
        task += count * split
        counter += count if split > 1 else 0
        element += 0 if last else part.spec.N * part.spec.P * part.spec.Q * part.spec.K
    starts = [sum(sizes[:lane]) for lane in own]
    rows = [
        Row(r.part, r.split, r.first, r.counter, start if lane >= 0 else 0, r.map, r.sources)
        for r, start, lane in zip(rows, starts, own)
    ]
    return Table(tuple(rows), sum(sizes), element, counter)


def _number(source: str | None, names: dict[str, int]) -> int:
    return NOTHING if source is None else 0 if source == INPUT else names[source] + 1


def levels(spec: BlockSpec) -> list[list[Part]]:
    """The run's layers by how many of them lie in a row before each: those of one level need nothing of one another."""
    depth: dict[str, int] = {INPUT: 0}
    found: list[list[Part]] = []
    for part in spec.parts:
        level = depth[part.name] = 1 + max(depth[source] for source in part.sources.values())
        found += [[] for _ in range(level - len(found))]
        found[level - 1].append(part)
    return found
