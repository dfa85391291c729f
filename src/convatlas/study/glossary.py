"""The words of the atlas. `convatlas glossary`, docs/glossary.md and the report's pages all take them from here.

`python -m convatlas.study.glossary` prints docs/glossary.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from convatlas.names import folded, spelled

PAGE = "docs/glossary.md"
SEE = "`convatlas glossary WORD` explains tile, wave, occupancy and the other words."


@dataclass(frozen=True)
class Word:
    """One word.

    Attributes:
        name: the word.
        text: what it means, in whole sentences.
        also: other names of it.
        see: words that belong to it.
    """

    name: str
    text: str
    also: tuple[str, ...] = ()
    see: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """Its heading's fragment in docs/glossary.md, as GitHub makes it."""
        return "".join(c for c in self.name.casefold().replace(" ", "-") if c.isalnum() or c == "-")


WORDS = (
    Word(
        "thread",
        "The smallest unit of a kernel: one run of its code, with registers of its own. Threads are told apart by their "
        "numbers alone. In a GEMM a thread holds some of the block's sums in its registers until the last product is "
        "added.",
        see=("warp", "block"),
    ),
    Word(
        "warp",
        "32 threads that execute the same instruction at the same time. A branch that some of its threads take and others "
        "do not is executed for both, one after the other. Tensor cores are used by whole warps, on Hopper by four of "
        "them, a warpgroup.",
        see=("thread", "tensor core"),
    ),
    Word(
        "block",
        "The threads, at most 1024, that run together on one SM, share its shared memory and can wait for one another. A "
        "kernel is launched as a grid of blocks, which know nothing of each other. Triton calls a block a program.",
        also=("thread block", "program", "CTA"),
        see=("grid", "SM"),
    ),
    Word(
        "grid",
        "All blocks of a launch. The GPU deals them out to SMs as places become free, in no order that a program may rely "
        "on.",
        see=("block", "wave"),
    ),
    Word(
        "SM",
        "Streaming multiprocessor: the part of a GPU that runs blocks. An H100 SXM has 132. Each has four schedulers, "
        "registers, shared memory, and its own tensor cores. A block stays on its SM until it ends.",
        also=("streaming multiprocessor",),
        see=("occupancy", "issue slot"),
    ),
    Word(
        "tile",
        "The part of the output that one block computes at a time: BM x BN sums of a GEMM, or a patch of an image. Large "
        "tiles read each operand fewer times; small ones give more blocks to fill the SMs with. The part of a tile that "
        "lies outside the output is waste.",
        see=("GEMM", "wave"),
    ),
    Word(
        "wave",
        "As many blocks as all SMs hold at once. 300 blocks on 132 SMs that hold two each are 300/264 = 1.14 waves, and "
        "take the time of two.",
        see=("tail", "occupancy"),
    ),
    Word(
        "tail",
        "The last wave where it does not fill all places: SMs idle while the last blocks run. A launch of 1.14 waves "
        "leaves 86 % of the second one's places empty.",
        see=("wave", "split-K"),
    ),
    Word(
        "occupancy",
        "How many warps an SM holds of those that it could, or how many blocks. Registers, shared memory, threads and the "
        "number of blocks each set a limit; the least one holds. More warps hide more waiting, but a tile that needs many "
        "registers can be quicker with few.",
        see=("register", "shared memory"),
    ),
    Word(
        "register",
        "Where a thread keeps what it computes with; at most 255 of 32 bits each. An SM has 65,536 for all of its "
        "threads, so that kernels with many registers a thread leave room for fewer blocks.",
        see=("spill", "occupancy"),
    ),
    Word(
        "spill",
        "What the compiler keeps in memory because a thread's registers do not suffice. Each spill is a store and later a "
        "load. convatlas's kernels are tested to have none.",
        see=("register",),
    ),
    Word(
        "shared memory",
        "Memory within the SM that a block's threads share, up to 227 KB a block on an H100. Operands are copied there "
        "once and read by all warps. It is divided into 32 banks.",
        see=("bank conflict", "pipeline"),
    ),
    Word(
        "bank conflict",
        "Two accesses of one bank of shared memory at once, of different words: they take turns. Layouts avoid it by "
        "padding, or by a swizzle, which permutes the chunks of a row by the row's number.",
        also=("swizzle",),
        see=("shared memory",),
    ),
    Word(
        "pipeline",
        "Copies of later steps that are on their way while an earlier step is multiplied. Its stages are the buffers in "
        "shared memory that it goes round; with s stages s - 1 copies are under way, which hides so much of a load's "
        "latency.",
        also=("stage", "software pipelining"),
        see=("shared memory", "latency"),
    ),
    Word(
        "latency",
        "The time from asking for something to having it, however much is asked for. A load from DRAM takes some 1000 "
        "clocks on an H100. A kernel is limited by it where too little is under way.",
        see=("pipeline", "launch latency"),
    ),
    Word(
        "launch latency",
        "What it takes to start a kernel that does nothing: some 2 microseconds in a CUDA graph. Layers of one image are "
        "often limited by it.",
        see=("latency",),
    ),
    Word(
        "tensor core",
        "The unit of an SM that multiplies small matrices: on an H100 2,048 multiply-adds a clock and SM in float16, 16 "
        "times what its other units do in float32.",
        see=("GEMM", "TF32"),
    ),
    Word(
        "TF32",
        "float32 with its mantissa rounded to 10 bits when tensor cores multiply; sums stay float32. Without it float32 "
        "products are made by the ordinary units.",
        see=("tensor core",),
    ),
    Word(
        "GEMM",
        "The product of an M x K and a K x N matrix. Of a convolution M counts the output pixels of all images, N the "
        "filters, K the products of one output: window times channels.",
        also=("matrix product",),
        see=("implicit GEMM",),
    ),
    Word(
        "implicit GEMM",
        "A convolution as a GEMM whose left matrix, the im2col matrix, is never stored: its elements are fetched from the "
        "image when a tile needs them.",
        also=("im2col",),
        see=("GEMM", "TMA"),
    ),
    Word(
        "split-K",
        "The sum of one tile divided among several blocks, each of which takes a part of K. It fills SMs that would idle "
        "where a layer has few tiles; the parts are added by a second launch.",
        see=("tail", "tile"),
    ),
    Word(
        "TMA",
        "Tensor memory accelerator: Hopper's copy engine. One thread asks for a box of a tensor; the engine computes its "
        "addresses, fills what lies outside with zeros, and writes shared memory.",
        also=("tensor memory accelerator",),
        see=("pipeline", "implicit GEMM"),
    ),
    Word(
        "epilogue",
        "What a kernel does to its sums before it stores them: bias, residual, activation. Fused there, they cost no "
        "traffic of their own, since the output is not written and read once more.",
        also=("fusion",),
        see=("compulsory bytes",),
    ),
    Word(
        "compulsory bytes",
        "What must cross between DRAM and the chip if nothing is read twice: every input once and every output once. What "
        "is read again comes from the L2 cache at best.",
        see=("arithmetic intensity",),
    ),
    Word(
        "arithmetic intensity",
        "FLOPs for each compulsory byte. A layer with few is limited by memory, however quick the arithmetic.",
        see=("roofline",),
    ),
    Word(
        "roofline",
        "The bound on a layer's speed that a GPU's peak rates set: time is at least FLOPs over the arithmetic rate, and "
        "at least bytes over the bandwidth. The two meet at the intensity at which both take as long.",
        see=("arithmetic intensity",),
    ),
    Word(
        "issue slot",
        "The one instruction that a scheduler can start in a clock. An SM has four schedulers. A loop that needs more "
        "slots than its tensor-core work takes clocks is limited by its other instructions.",
        see=("SM", "tensor core"),
    ),
)


def word(name: str) -> Word:
    """The word of that name or of another name of it. Raises NetError, with the nearest ones, for an unknown one."""
    known = {folded(each): one for one in WORDS for each in (one.name, *one.also, f"{one.name}s")}
    if folded(name) in known:
        return known[folded(name)]
    names = [each for one in WORDS for each in (one.name, *one.also)]
    return known[folded(spelled(name, names, "word", "`convatlas glossary` lists them"))]


def markdown() -> str:
    """docs/glossary.md."""
    lines = [
        "# Glossary",
        "",
        "The words that [the model](model.md), [the kernels' page](kernels.md) and the commands `map`, `explain`,",
        "`inspect` and `report` use. `convatlas glossary WORD` prints one of them. This page is written by",
        "`python -m convatlas.study.glossary`.",
    ]
    for one in sorted(WORDS, key=lambda each: each.name.casefold()):
        lines += ["", f"## {one.name}", ""]
        if one.also:
            lines += [f"Also: {', '.join(one.also)}.", ""]
        lines.append(one.text)
        links = ", ".join(f"[{other}](#{word(other).anchor})" for other in one.see)
        lines += ["", f"See {links}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
