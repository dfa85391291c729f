"""MobileNetV1: a convolution taken apart into depthwise and pointwise."""

from __future__ import annotations

from itertools import pairwise

from convatlas.specs import Conv2dSpec
from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas, intensity, total
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts
from convatlas.study.numbers import short
from convatlas.study.roofline import H100
from convatlas.study.summary import Row

NET = "mobilenet_v1"
BATCH = 64  # enough images that weights are a small part of the bytes

ABOUT = """
A dense convolution mixes pixels and channels at once. A **depthwise separable** one does it in two steps: a *depthwise*
convolution, one R x S filter a channel, mixes pixels; a *pointwise* one, 1x1, mixes channels. For K output channels the cost
falls to 1/K + 1/(R * S) of the dense convolution's: about an eighth to a ninth for 3x3.

What falls with it is the work on each byte. A depthwise filter uses each number it reads R * S times and then drops it, so
there are at most 2 * 9 FLOPs for one number read and one written, 4.5 FLOPs a byte in float16. A GPU that can do hundreds of
FLOPs while it fetches a byte waits for memory all the time.
"""

DIAGRAM = """
flowchart LR
  subgraph dense
    x0["x, C"] --> d["3x3, C to K<br>9*C*K weights"]
  end
  subgraph separable["depthwise separable"]
    x1["x, C"] --> a["depthwise 3x3<br>9*C weights"] --> b["pointwise 1x1<br>C*K weights"]
  end
"""


def pairs(atlas: Atlas, batch: int = 1) -> list[tuple[Row, Row]]:
    """(depthwise, pointwise) of each separable convolution, as they follow one another."""
    rows = atlas.rows(NET, batch=batch)
    return [(a, b) for a, b in pairwise(rows) if a.kind == "depthwise" and b.kind == "1x1"]


def dense(depthwise: Row, pointwise: Row) -> Conv2dSpec:
    """The convolution that a separable one stands for."""
    spec = depthwise.spec
    weight = pointwise.spec.K, spec.C, spec.R, spec.S
    return Conv2dSpec.of(spec.input_shape, weight, spec.stride, spec.padding)


def ratios(atlas: Atlas) -> list[tuple[float, float]]:
    """(cost found, 1/K + 1/(R*S)) of each separable convolution."""
    return [((a.macs + b.macs) / dense(a, b).macs, 1 / b.spec.K + 1 / (a.spec.R * a.spec.S)) for a, b in pairs(atlas)]


def ratio(atlas: Atlas) -> Finding:
    found = ratios(atlas)
    layers = [Number(f"separable convolution {i}", cost, formula) for i, (cost, formula) in enumerate(found, 1)]
    return Finding(
        tuple(layers),
        "MACs of depthwise and pointwise over those of the dense convolution of the same shape and stride; claimed: the formula "
        "with that layer's K",
    )


def eight_to_nine(atlas: Atlas) -> Finding:
    found = pairs(atlas)
    separable, instead = sum(a.macs + b.macs for a, b in found), sum(dense(a, b).macs for a, b in found)
    net = atlas.summary(NET)
    whole = net.macs - separable + instead
    return Finding(
        (
            Number("times less work, all separable convolutions", instead / separable, 8, ">="),
            Number("the same, at most", instead / separable, 9, "<="),
            Number("times less work, the whole network", whole / net.macs),
            Number("MACs of the whole network", net.macs),
            Number("MACs with dense convolutions", whole),
        ),
        "MACs; the whole network has a first dense convolution and a linear layer in both forms",
    )


def memory_bound(atlas: Atlas) -> Finding:
    rows = atlas.rows(NET, batch=BATCH)
    depthwise = [row for row in rows if row.kind == "depthwise"]
    pointwise = [row for row in rows if row.kind == "1x1"]
    vector, tensor = H100.ridge(tensor=False), H100.ridge()
    best = max(depthwise, key=lambda row: row.intensity)
    return Finding(
        (
            Number("depthwise, most FLOPs a byte of any layer", best.intensity, vector, "<="),
            Number("pointwise, FLOPs a byte of all together", intensity(pointwise), tensor, "<="),
            Number("depthwise, share of the MACs", total(depthwise, "macs") / total(rows, "macs"), unit="%"),
            Number("depthwise, share of the bytes", total(depthwise, "bytes") / total(rows, "bytes"), unit="%"),
            Number("depthwise, share of the predicted time", part_of_time(depthwise, rows), unit="%"),
            Number(
                "pointwise layers below the ridge point",
                sum(r.intensity < tensor for r in pointwise) / len(pointwise),
                unit="%",
            ),
        ),
        f"{BATCH} images, float16, compulsory bytes; claimed at most: the ridge points of an {H100.name}, {vector:.1f} FLOPs a "
        f"byte for its vector units ({short(H100.vector, 'FLOP/s')}) and {tensor:.0f} for its tensor cores "
        f"({short(H100.tensor, 'FLOP/s')}), at {short(H100.bandwidth, 'B')}/s ({H100.source}). Predicted, not measured: time is "
        "at least the longer of arithmetic and traffic",
    )


def part_of_time(depthwise: list[Row], rows: list[Row]) -> float:
    """Predicted seconds in depthwise layers, of all weighted ones."""

    def seconds(part: list[Row]) -> float:
        return sum(H100.seconds(row.flops, row.bytes, row.kind != "depthwise") for row in part)

    return seconds(depthwise) / seconds(rows)


def separable_table(atlas: Atlas) -> Table:
    """A row a separable convolution: cost against dense, intensity of its two halves."""
    rows = []
    for (a, b), (wide_a, wide_b), (cost, formula) in zip(pairs(atlas), pairs(atlas, BATCH), ratios(atlas)):
        shape = f"{a.spec.C}x{a.spec.H}x{a.spec.W} to {b.spec.K}"
        stride = str(a.spec.stride[0])
        numbers = f"{short(dense(a, b).macs)}", short(a.macs + b.macs), f"{cost:.4f}", f"{formula:.4f}"
        rows.append((shape, stride, *numbers, f"{wide_a.intensity:.2f}", f"{wide_b.intensity:.0f}"))
    header = (
        "convolution",
        "stride",
        "dense MACs",
        "separable",
        "ratio",
        "1/K + 1/9",
        "depthwise FLOPs/B",
        "pointwise FLOPs/B",
    )
    caption = f"The separable convolutions of {NET}; MACs of one image, FLOPs a byte with {BATCH} images, float16."
    return Table(caption, header, tuple(rows))


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (NET, "vgg16", "resnet50")), separable_table(atlas)


TOPIC = Topic(
    "mobilenet_v1",
    "MobileNetV1 (2017): depthwise separable convolution",
    (NET,),
    ABOUT,
    DIAGRAM,
    (
        Claim("cost ratio to a dense convolution: 1/K + 1/(R*S), per layer", ratio),
        Claim("in total, 8 to 9 times less computation", eight_to_nine, "Howard et al. 2017, section 3.1"),
        parameter_counts("number of parameters", {NET: 4_231_976}),
        Claim("it is memory-bound on a GPU", memory_bound),
    ),
    (Unanswered("the efficient method, essential", "a GPU for time and energy, and training for accuracy"),),
    shown,
)
