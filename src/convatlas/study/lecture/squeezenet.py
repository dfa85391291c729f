"""SqueezeNet: squeeze, then expand."""

from __future__ import annotations

from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas, intensity
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts

NETS = ("squeezenet1_0", "squeezenet1_1")

ABOUT = """
A **Fire module** first *squeezes* its input to few channels by a 1x1 convolution, then *expands* it by 1x1 and 3x3
convolutions side by side, whose outputs are concatenated. So most filters are 1x1, and the 3x3 ones see few channels. No fully
connected layer: the last 1x1 convolution makes one map a class. Version 1.1 has a smaller first convolution and pools earlier:
the same accuracy, say its authors, with 2.4 times less work.
"""

DIAGRAM = """
flowchart LR
  x["x, 96"] --> s["squeeze<br>1x1, 16"]
  s --> a["expand<br>1x1, 64"] --> y["concat, 128"]
  s --> b["expand<br>3x3, 64"] --> y
"""


def fifty(atlas: Atlas) -> Finding:
    alexnet = atlas.summary("alexnet_2012").parameters
    numbers = [Number(f"AlexNet's parameters to {n}'s", alexnet / atlas.summary(n).parameters, 50) for n in NETS]
    tower = atlas.summary("alexnet").parameters
    bytes = 4 * atlas.summary(NETS[0]).parameters
    return Finding(
        (
            *numbers,
            Number("the single tower's, alexnet's, to squeezenet1_0's", tower / atlas.summary(NETS[0]).parameters),
            Number("alexnet_2012, parameters", alexnet),
            Number("squeezenet1_0 in float32", bytes, unit="B"),
        ),
        "all parameters, 1000 classes, AlexNet in two groups as in its paper",
    )


def fire(atlas: Atlas) -> Finding:
    rows = [row for row in atlas.rows(NETS[0]) if "squeeze" in row.path or "expand" in row.path]
    squeezes = [row for row in rows if row.path.endswith("squeeze")]
    small = [row for row in rows if row.kind == "1x1"]
    return Finding(
        (
            Number("Fire modules whose squeeze has fewer channels than its input", fewer(squeezes), len(squeezes)),
            Number("1x1 among the modules' convolutions", len(small) / len(rows), 0.5, ">=", "%"),
            Number("MACs in the modules' 3x3", 1 - sum(r.macs for r in small) / sum(r.macs for r in rows), unit="%"),
        ),
        "squeezenet1_0, convolutions by number",
    )


def fewer(squeezes: list) -> int:
    return sum(row.spec.K < row.spec.C for row in squeezes)


def cheaper(atlas: Atlas) -> Finding:
    first, second = (atlas.summary(name) for name in NETS)
    return Finding(
        (
            Number("MACs of 1.0 to those of 1.1", first.macs / second.macs, 2.4),
            Number("parameters of 1.0 to those of 1.1", first.parameters / second.parameters),
            Number("FLOPs a byte, 1.0", intensity(first.rows)),
            Number("FLOPs a byte, 1.1", intensity(second.rows)),
        ),
        "one image of 224x224; the authors count computation, here MACs",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (*NETS, "alexnet_2012")), tables.stages(atlas, NETS[0])


TOPIC = Topic(
    "squeezenet",
    "SqueezeNet (2016)",
    NETS,
    ABOUT,
    DIAGRAM,
    (
        Claim("1/50 of AlexNet's parameters", fifty),
        parameter_counts("parameters of 1.0 and 1.1", {NETS[0]: 1_248_424, NETS[1]: 1_235_496}),
        Claim("squeeze layer + expand layer", fire),
        Claim("1.1 has 2.4x less computation", cheaper, "the authors' SqueezeNet_v1.1/README.md"),
    ),
    (Unanswered("AlexNet's accuracy", "trained weights and ImageNet"),),
    shown,
)
