"""Wide ResNet: fewer layers with more filters."""

from __future__ import annotations

from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts

WIDE, DEEP = "wide_resnet50_2", "resnet152"

ABOUT = """
If residual connections matter more than depth, a shallower network with more filters should do as well, and it suits a GPU
better: fewer layers one behind the other, each with more work to spread over the multiprocessors. `wide_resnet50_2` doubles the
3x3 convolutions' channels inside the bottlenecks of ResNet-50; `wrn_28_10` is the paper's network for 32x32 images, with ten
times the channels.
"""

DIAGRAM = """
flowchart TB
  subgraph resnet["ResNet-50"]
    x1["x, 256"] --> a1["1x1, 64"] --> a2["3x3, 64"] --> a3["1x1, 256"] --> p1(("+"))
    x1 --> p1
  end
  subgraph wide["Wide ResNet-50-2"]
    x2["x, 256"] --> b1["1x1, 128"] --> b2["3x3, 128"] --> b3["1x1, 256"] --> p2(("+"))
    x2 --> p2
  end
"""


def same(atlas: Atlas) -> Finding:
    wide, deep = atlas.summary(WIDE), atlas.summary(DEEP)
    return Finding(
        (
            Number(f"{WIDE}'s parameters to {DEEP}'s", wide.parameters / deep.parameters, 1),
            Number("and MACs", wide.macs / deep.macs),
            Number("and layers", wide.depth / deep.depth),
            Number(
                "wide_resnet50_2's parameters to resnet50's", wide.parameters / atlas.summary("resnet50").parameters
            ),
        ),
        "all parameters, 1000 classes; the notes do not say against which network: 50 wide layers are held against the 152 "
        "that they are said to replace",
    )


def gemms(atlas: Atlas) -> Finding:
    def mean(name: str) -> float:
        rows = atlas.rows(name)
        return sum(row.macs for row in rows) / len(rows)

    return Finding(
        (
            Number(f"kernels of {WIDE}", len(atlas.summary(WIDE).rows), len(atlas.summary(DEEP).rows), "<="),
            Number(f"kernels of {DEEP}", len(atlas.summary(DEEP).rows)),
            Number("MACs a layer, wide to deep", mean(WIDE) / mean(DEEP), 1, ">="),
            Number(
                "FLOPs a byte, wide to deep", atlas.summary(WIDE).intensity / atlas.summary(DEEP).intensity, 1, ">="
            ),
        ),
        "one image, float16; a kernel an op, batch norm and addition fused. How fast that is needs a GPU",
    )


def layers(atlas: Atlas) -> Finding:
    rows = [row for row in atlas.rows("wrn_28_10") if row.kind != "fc"]
    return Finding(
        (
            Number("convolutions of wrn_28_10", len(rows), 28),
            Number("of them in shortcuts", sum("shortcut" in row.path for row in rows)),
            Number("layers on the longest path, the linear one too", atlas.summary("wrn_28_10").depth),
        ),
        "all convolutions, those of the shortcuts too: the paper's 6N + 4 with N = 4 blocks a group; elsewhere here depth is the "
        "longest path",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    names = WIDE, "wide_resnet101_2", "wrn_28_10", "resnet50", "resnet101", DEEP
    return tables.family(atlas, names), tables.stages(atlas, WIDE)


TOPIC = Topic(
    "wide_resnet",
    "Wide ResNet (2016)",
    (WIDE, "wide_resnet101_2", "wrn_28_10"),
    ABOUT,
    DIAGRAM,
    (
        Claim("parameter count the same", same),
        parameter_counts("parameters by depth", {WIDE: 68_883_240, "wide_resnet101_2": 126_886_696}),
        Claim("WRN-28-10 has 28 layers", layers, "Zagoruyko, Komodakis 2016, section 3"),
        Claim("a wide net suits a GPU: fewer and larger layers", gemms, "Zagoruyko, Komodakis 2016, section 1"),
    ),
    (
        Unanswered("residuals matter more than depth; with more filters 50 layers suffice", "training and ImageNet"),
        Unanswered("latency and utilisation, wide against deep", "both timed on a GPU (roadmap R15)"),
    ),
    shown,
)
