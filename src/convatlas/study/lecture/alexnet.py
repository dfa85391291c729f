"""AlexNet: counting parameters, layer by layer."""

from __future__ import annotations

from convatlas.specs import Conv2dSpec
from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas, total
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered
from convatlas.study.summary import Row

ABOUT = """
Five convolutions, the first of 11x11 pixels and stride 4, then three fully connected layers. It was trained on two GPUs of
3 GB, each of which held half of the channels: the second, fourth and fifth convolution see only the half on their own GPU,
which is a convolution in **two groups**. Local response normalisation divides by the activity of neighbouring channels;
nobody uses it any more. `alexnet_2012` is that network; `alexnet` is the single tower that PyTorch users know by the name.

To count the parameters of a convolution: each of its K filters has C/groups * R * S weights and one bias, so
K * (C/groups * R * S + 1). A fully connected layer is the same with R = S = 1 and C all numbers of the map before it.
Strides, padding, pooling and activations have none.
"""

DIAGRAM = """
flowchart LR
  image["image<br>3x227x227"] --> c1["conv 11x11 /4, 96<br>response norm<br>max 3x3 /2"]
  c1 --> c2["conv 5x5, 256<br>2 groups<br>response norm<br>max 3x3 /2"]
  c2 --> c3["conv 3x3, 384"] --> c4["conv 3x3, 384<br>2 groups"] --> c5["conv 3x3, 256<br>2 groups<br>max 3x3 /2"]
  c5 --> f6["linear<br>9216 to 4096"] --> f7["linear<br>4096 to 4096"] --> f8["linear<br>4096 to 1000"]
"""


def by_formula(row: Row) -> int:
    """K * (C/groups * R * S + 1): the weights and a bias a filter."""
    spec = row.spec
    if isinstance(spec, Conv2dSpec):
        return spec.K * (spec.C // spec.groups * spec.R * spec.S + 1)
    return spec.K * (spec.C + 1)


def count(atlas: Atlas) -> Finding:
    numbers = []
    for name, claimed in (("alexnet_2012", 60_965_224), ("alexnet", 61_100_840)):
        rows = atlas.rows(name)
        numbers += [
            Number(f"{name}, K*(C/groups*R*S + 1) summed over its layers", sum(map(by_formula, rows)), claimed),
            Number(f"{name}, the numbers in its state_dict", atlas.summary(name).parameters, claimed),
            Number(f"{name}, layers whose formula and state_dict agree", agreeing(rows), len(rows)),
        ]
    return Finding(
        tuple(numbers), "weights and biases of all convolutions and linear layers; nothing else has parameters"
    )


def agreeing(rows: list[Row]) -> int:
    return sum(by_formula(row) == row.parameters for row in rows)


def where(atlas: Atlas) -> Finding:
    s = atlas.summary("alexnet_2012")
    conv = 1 - s.share("fc")
    return Finding(
        (
            Number("parameters in the linear layers", s.share("fc", "parameters"), unit="%"),
            Number("MACs in the convolutions", conv, unit="%"),
            Number("numbers in activations, the image included", s.activations),
            Number("of the five convolutions' outputs", sum(r.spec.elements["output"] for r in s.rows if conv_row(r))),
        ),
        "alexnet_2012, one image; activations: the image and every op's output",
    )


def conv_row(row: Row) -> bool:
    return isinstance(row.spec, Conv2dSpec)


def groups(atlas: Atlas) -> Finding:
    rows = [row for row in atlas.rows("alexnet_2012") if conv_row(row) and row.spec.groups > 1]
    kept = total(rows, "parameters") - sum(row.spec.K for row in rows)
    whole = sum(row.spec.K * row.spec.C * row.spec.R * row.spec.S for row in rows)
    return Finding(
        (
            Number("convolutions in two groups", len(rows)),
            Number("weights that they have, of what they would without groups", kept / whole, unit="%"),
        ),
        "weights without biases; two groups halve the channels that a filter sees, and so its weights and MACs",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.layers(atlas, "alexnet_2012"), tables.family(atlas, ("alexnet_2012", "alexnet"))


TOPIC = Topic(
    "alexnet",
    "AlexNet (2012)",
    ("alexnet_2012", "alexnet"),
    ABOUT,
    DIAGRAM,
    (
        Claim("one must be able to count its parameters", count),
        Claim("parameters and activations, in total: where are they?", where),
        Claim("the original is in two groups: what do they save?", groups),
    ),
    (Unanswered("first CNN to win ImageNet", "the results of the contest"),),
    shown,
)
