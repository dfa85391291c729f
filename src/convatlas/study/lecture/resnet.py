"""ResNet: depth by identity shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log

from convatlas.specs import Conv2dSpec
from convatlas.study.lecture import tables, trained
from convatlas.study.lecture.atlas import Atlas, total
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}

ABOUT = """
A block computes y = relu(F(x) + x): what it learns is the difference from doing nothing, and the gradient of y reaches x along
the addition undiminished. That is what makes 152 layers trainable where a plain net of 34 is already harder to optimise than
one of 18. Two kinds of block: a **basic** one of two 3x3 convolutions, up to 34 layers; and a **bottleneck**, 1x1 down to a
quarter of the channels, 3x3, 1x1 up again, from 50 layers on. Where the map's size changes, the shortcut is a strided 1x1
convolution. The maps halve and the channels double at each of four stages.

On a GPU the addition costs no arithmetic worth the name, but traffic: as a kernel of its own it reads two maps and writes one.
Fused into the last convolution's epilogue it reads one.
"""

DIAGRAM = """
flowchart TB
  subgraph basic
    x1["x, 64"] --> a1["3x3, 64"] --> a2["3x3, 64"] --> p1(("+"))
    x1 -- "identity" --> p1
  end
  subgraph bottleneck
    x2["x, 256"] --> b1["1x1, 64"] --> b2["3x3, 64"] --> b3["1x1, 256"] --> p2(("+"))
    x2 -- "identity" --> p2
  end
"""


def layers(atlas: Atlas) -> Finding:
    s = atlas.summary("resnet152")
    return Finding(
        (
            Number("layers on the longest path", s.depth, 152),
            Number("convolutions and linear layers in all", len(atlas.rows("resnet152"))),
        ),
        "layers with weights, as the paper counts; the difference are the strided shortcuts",
    )


def all_3x3(atlas: Atlas) -> Finding:
    rows = [row for row in atlas.rows("resnet34") if row.kind != "fc"]
    blocks = [row for row in rows if ".conv" in row.path]
    return Finding(
        (
            Number("resnet34, convolutions in blocks that are 3x3", part(blocks, "3x3"), 1.0, unit="%"),
            Number("resnet34, all convolutions that are 3x3", part(rows, "3x3"), 1.0, unit="%"),
            Number(
                "resnet50, convolutions in blocks that are 3x3", part(in_blocks(atlas, "resnet50"), "3x3"), unit="%"
            ),
        ),
        "convolutions by number; blocks without their shortcuts, which are 1x1 where they are convolutions; the first layer is "
        "7x7; of resnet50, whose blocks are bottlenecks, nothing is claimed",
    )


def part(rows: list, kind: str) -> float:
    return sum(row.kind == kind for row in rows) / len(rows)


def in_blocks(atlas: Atlas, name: str) -> list:
    return [row for row in atlas.rows(name) if row.path.startswith("layer") and ".conv" in row.path]


def grows(atlas: Atlas) -> Finding:
    widths = [row.spec.K for row in atlas.rows("resnet34") if row.path.endswith("0.conv2")]
    pairs = list(pairwise(widths))
    return Finding(
        (
            Number("stages", len(widths)),
            Number("steps from stage to stage that double the channels", sum(b == 2 * a for a, b in pairs), len(pairs)),
        ),
        "depth read as channels: those of the first block of each of resnet34's stages",
    )


def bottleneck(atlas: Atlas) -> Finding:
    def macs(*layers: tuple[int, int, int]) -> int:
        return sum(Conv2dSpec.of((1, C, 56, 56), (K, C, R, R), padding=R // 2).macs for C, K, R in layers)

    narrow, basic = macs((256, 64, 1), (64, 64, 3), (64, 256, 1)), macs((64, 64, 3), (64, 64, 3))
    wide = macs((256, 256, 3), (256, 256, 3))
    return Finding(
        (
            Number("bottleneck on 256 channels, MACs", narrow, wide, "<="),
            Number("of two 3x3 on 256 channels", narrow / wide, unit="%"),
            Number("of a basic block on 64 channels", narrow / basic, unit="%"),
        ),
        "convolutions on a map of 56x56, the shortcuts not counted; as in GoogLeNet, 1x1 go down before the wide window",
    )


def free(atlas: Atlas) -> Finding:
    s = atlas.summary("resnet34")
    blocks = sum(".conv2" in row.path for row in s.rows)
    strided = [row for row in s.rows if "downsample" in row.path]
    return Finding(
        (
            Number("resnet34, shortcuts that are the identity", blocks - len(strided)),
            Number("shortcuts that are 1x1 convolutions", len(strided)),
            Number("parameters that shortcuts add to plain34", s.parameters - atlas.summary("plain34").parameters),
            Number("of all parameters", total(strided, "parameters") / s.parameters, 0.01, "<=", "%"),
        ),
        "the identity has no parameters; those added are of the strided 1x1 convolutions and their batch norms; nearly nothing: "
        "taken as at most 1 %",
    )


def addition(atlas: Atlas) -> Finding:
    fused, alone = atlas.summary("resnet50"), atlas.summary("resnet50", fuse_residual=False)
    adds = [row for row in alone.rows if row.layer.op == "residual_add"]
    return Finding(
        (
            Number("residual additions", len(adds)),
            Number("bytes, additions as kernels of their own", alone.bytes, unit="B"),
            Number("bytes, additions in the convolution's epilogue", fused.bytes, alone.bytes, "<=", "B"),
            Number("bytes saved", 1 - fused.bytes / alone.bytes, unit="%"),
            Number("MACs, the same in both", fused.macs, alone.macs),
        ),
        "resnet50, one image, compulsory bytes in float16; fused, the sum is neither written nor read once more",
    )


def spread(norms: Sequence[float]) -> float:
    """The factor, at least 1, between the geometric means of the first and the last third of the norms."""
    third = len(norms) // 3
    first, last = (sum(map(log, part)) / third for part in (norms[:third], norms[-third:]))
    return exp(abs(first - last))


def through(atlas: Atlas) -> Finding:
    found = trained.load()["gradients"]
    numbers = []
    for when, words in (("start", "at initialisation"), ("later", f"after {trained.STEPS} steps")):
        for depth in (18, 34):
            plain, residual = (spread(found[f"{kind}{depth}"][when]) for kind in ("plain", "resnet"))
            numbers.append(Number(f"plain{depth}, {words}", plain))
            numbers.append(Number(f"resnet{depth}, {words}", residual, plain, "<="))
    return Finding(
        tuple(numbers),
        "the factor between the norms of the weights' gradients in the first and in the last third of the convolutions, geometric "
        f"means; 1 is a gradient that depth does not change. One seed, random images of {trained.SIZE}x{trained.SIZE} pixels, "
        f"batch {trained.BATCH}; trained on our ops (study/lecture/trained.py), the norms stored",
    )


def step_work(atlas: Atlas) -> Finding:
    numbers = []
    for name, step in trained.load()["steps"].items():
        (forward, whole), (first, first_whole) = step["all"], step["first"]
        numbers.append(Number(f"{name}, MACs of a step over the forward pass's", whole / forward, 3))
        numbers.append(Number(f"{name}, of its first layer", first_whole / first, 2))
    return Finding(
        tuple(numbers),
        "products of convolutions and linear layers: forward, gradients by input, gradients by weight. Nobody asks for the image's "
        "gradient; AlexNet's first layer is a larger part of it",
    )


def step_memory(atlas: Atlas) -> Finding:
    numbers = []
    for name, step in trained.load()["steps"].items():
        numbers.append(Number(f"{name}, training", step["memory"], step["inference"], ">=", "B"))
        numbers.append(Number(f"{name}, of it kept for the backward pass", step["kept"], unit="B"))
        segments = f"{name}, training with checkpointing in {step['segments']} segments"
        numbers.append(Number(segments, step["checkpointed"], step["memory"], "<=", "B"))
    return Finding(
        tuple(numbers),
        f"{trained.STEP_BATCH} images in float16; weights, gradients and momentum in float32. Beside training is inference: "
        "weights in float16 and the most activations alive at once; beside checkpointing training without",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (*COUNTS, "plain18", "plain34")), tables.stages(atlas, "resnet50")


TOPIC = Topic(
    "resnet",
    "ResNet (2015)",
    (*COUNTS, "plain18", "plain34"),
    ABOUT,
    DIAGRAM,
    (
        Claim("152 layers", layers),
        parameter_counts("parameters by depth", COUNTS),
        Claim("all 3x3", all_3x3),
        Claim("depth grows", grows),
        Claim("1x1 bottleneck as in GoogLeNet", bottleneck),
        Claim("identity mapping: shortcuts cost nearly no parameters", free, "He et al. 2015, section 3.2"),
        Claim("identity mapping lets the gradient through", through),
        Claim("a training step is three forward passes, but for the first layer", step_work, "a rule of thumb"),
        Claim("training takes more memory than inference, and checkpointing less", step_memory, "Chen et al. 2016"),
        Claim("residual addition, as a kernel of its own and as an epilogue", addition),
    ),
    (
        Unanswered(
            "deeper plain nets are harder to optimise, not only overfit", "training (plain18 and plain34 are there)"
        ),
        Unanswered("better than a person", "ImageNet, trained weights, and the people's results"),
    ),
    shown,
)
